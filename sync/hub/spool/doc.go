// SPDX-License-Identifier: EUPL-1.2

// Package spool is the hub's durable memory behind one interface: the roster of boxes, requests that wait for a box,
// letters that wait for a server, what boxes have deposited, and leases that say which node holds which box.
//
// It promises: what a method has answered without an error is on the disk and survives kill -9 and a power cut; what was put in once under one key is there once;
// queues come out in the order in which they went in; of two nodes only the holder of the newest lease may settle what a box has answered.
//
// Two implementations, one contract test: SQLite for a hub on one machine, PostgreSQL for several nodes behind one name.
// It leaves to others: what the requests mean, and whom to trust (sync/hub).
package spool
