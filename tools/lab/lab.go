// SPDX-License-Identifier: EUPL-1.2

// Package lab tests whole boxes: real `hallig serve` processes on loopback, spoken to as phones, operators and other boxes
// would, joined by networks and serial lines that can be cut, and killed while they work. It holds nothing but tests.
package lab
