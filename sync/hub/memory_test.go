// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"hallig/sync/hub/spool"
)

// memory is a spool that a test can make fail, in memory: what it holds outlives the hubs that are opened on it.
type memory struct {
	spool.Spool // what is not here is not used: nil

	mu        sync.Mutex
	boxes     map[string]spool.Box
	queues    map[spool.Queue][]spool.Request
	settled   map[spool.Queue]map[string]bool
	deposits  map[[3]string][]byte
	seq       int64
	token     int64
	listeners []chan string
	failing   func(what string) error // asked before each act
}

func newMemory() *memory {
	return &memory{boxes: map[string]spool.Box{}, queues: map[spool.Queue][]spool.Request{}, settled: map[spool.Queue]map[string]bool{}, deposits: map[[3]string][]byte{}}
}

// enter locks; the error is that of the test.
func (m *memory) enter(what string) error {
	m.mu.Lock()
	if m.failing != nil {
		return m.failing(what)
	}
	return nil
}

// fail has acts fail from now on; nil: none.
func (m *memory) fail(f func(what string) error) {
	m.mu.Lock()
	m.failing = f
	m.mu.Unlock()
}

func (m *memory) PutBox(_ context.Context, b spool.Box) error {
	defer m.mu.Unlock()
	if err := m.enter("PutBox"); err != nil {
		return err
	}
	for _, o := range m.boxes {
		if (o.Server == b.Server) != (o.ID == b.ID) {
			return spool.ErrTaken
		}
	}
	b.Revoked = m.boxes[b.Server].Revoked
	m.boxes[b.Server] = b
	return nil
}

func (m *memory) Box(_ context.Context, server string) (spool.Box, error) {
	defer m.mu.Unlock()
	if err := m.enter("Box"); err != nil {
		return spool.Box{}, err
	}
	b, ok := m.boxes[server]
	if !ok {
		return b, spool.ErrUnknown
	}
	return b, nil
}

func (m *memory) Boxes(context.Context) (out []spool.Box, err error) {
	defer m.mu.Unlock()
	if err := m.enter("Boxes"); err != nil {
		return nil, err
	}
	for _, b := range m.boxes {
		out = append(out, b)
	}
	return out, nil
}

func (m *memory) Revoke(_ context.Context, server, reason string) error {
	defer m.mu.Unlock()
	if err := m.enter("Revoke"); err != nil {
		return err
	}
	b, ok := m.boxes[server]
	if !ok {
		return spool.ErrUnknown
	}
	b.Revoked = reason
	m.boxes[server] = b
	return nil
}

func (m *memory) Saw(server string, at time.Time, way, version string, health json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.boxes[server]
	b.Seen, b.Way, b.Version, b.Health = at, way, version, health
	m.boxes[server] = b
}

func (m *memory) Append(_ context.Context, q spool.Queue, _ time.Time, rs ...spool.Request) (fresh int, err error) {
	defer m.mu.Unlock()
	if err := m.enter("Append"); err != nil {
		return 0, err
	}
	if _, ok := m.boxes[q.Box]; !ok {
		return 0, spool.ErrUnknown
	}
	for _, r := range rs {
		if m.settled[q][r.Key] || slices.ContainsFunc(m.queues[q], func(o spool.Request) bool { return o.Key == r.Key }) {
			continue
		}
		m.seq++
		r.Seq = m.seq
		m.queues[q] = append(m.queues[q], r)
		fresh++
	}
	for _, l := range m.listeners {
		select {
		case l <- q.Box:
		default:
		}
	}
	return fresh, nil
}

func (m *memory) Next(_ context.Context, q spool.Queue, after int64, most int) (out []spool.Request, err error) {
	defer m.mu.Unlock()
	if err := m.enter("Next"); err != nil {
		return nil, err
	}
	for _, r := range m.queues[q] {
		if r.Seq > after && (len(out) == 0 || most >= len(r.Body)) {
			out = append(out, r)
			most -= len(r.Body)
		}
	}
	return out, nil
}

func (m *memory) Settle(_ context.Context, q spool.Queue, through int64, _ time.Time, l spool.Lease) error {
	defer m.mu.Unlock()
	if err := m.enter("Settle"); err != nil {
		return err
	}
	if l.Token != m.token {
		return spool.ErrFenced
	}
	if m.settled[q] == nil {
		m.settled[q] = map[string]bool{}
	}
	m.queues[q] = slices.DeleteFunc(m.queues[q], func(r spool.Request) bool {
		if r.Seq <= through {
			m.settled[q][r.Key] = true
		}
		return r.Seq <= through
	})
	return nil
}

func (m *memory) Waiting(_ context.Context, box string) (out []spool.Waiting, err error) {
	defer m.mu.Unlock()
	if err := m.enter("Waiting"); err != nil {
		return nil, err
	}
	for q, rs := range m.queues {
		if len(rs) > 0 && (box == "" || q.Box == box) {
			out = append(out, spool.Waiting{Queue: q, Count: int64(len(rs)), Oldest: rs[0].Received})
		}
	}
	return out, nil
}

func (m *memory) Deposit(_ context.Context, box, kind, key string, value []byte) error {
	defer m.mu.Unlock()
	if err := m.enter("Deposit"); err != nil {
		return err
	}
	m.deposits[[3]string{box, kind, key}] = value
	return nil
}

func (m *memory) Deposited(_ context.Context, box, kind, key string) ([]byte, error) {
	defer m.mu.Unlock()
	if err := m.enter("Deposited"); err != nil {
		return nil, err
	}
	return m.deposits[[3]string{box, kind, key}], nil
}

func (m *memory) Acquire(_ context.Context, box, node string, now time.Time, ttl time.Duration, _ bool) (spool.Lease, bool, error) {
	defer m.mu.Unlock()
	if err := m.enter("Acquire"); err != nil {
		return spool.Lease{}, false, err
	}
	m.token++
	return spool.Lease{Box: box, Node: node, Token: m.token, Until: now.Add(ttl)}, true, nil
}

func (m *memory) Renew(context.Context, string, time.Time, time.Duration) error { return nil }

func (m *memory) Release(context.Context, spool.Lease) error { return nil }

func (m *memory) Changes(ctx context.Context) <-chan string {
	c := make(chan string, 64)
	m.mu.Lock()
	m.listeners = append(m.listeners, c)
	m.mu.Unlock()
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.listeners = slices.DeleteFunc(m.listeners, func(o chan string) bool { return o == c })
		close(c)
	})
	return c
}

func (m *memory) Close() error { return nil }
