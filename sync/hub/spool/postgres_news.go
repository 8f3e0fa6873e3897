// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	newsChannel = "hallig_hub"
	newsMost    = 7000            // bytes of one NOTIFY: PostgreSQL takes 8000
	newsSweep   = 3 * time.Second // how late one hears of what a node could not tell any more
	newsRetry   = time.Second
)

// news carries the names of changed boxes from node to node.
//
// Each change moves tally.changes of its box, in the same transaction. A NOTIFY follows the commit in a transaction of its own: inside it would make all commits of the server wait
// for each other, flush by flush. So a node may die between the two, and a connection may break: every few seconds, and after each break, the counters are compared with those that
// were told, and what differs is told. Nothing depends on a message that might get lost.
type news struct {
	p    *server
	self string        // in our own messages, so that we pass them over
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	told    map[string]int64 // changes of each box up to which this node has told its own watchers
	pending map[string]int64 // to be told to other nodes; 0: the box is gone
}

func newNews(p *server) *news {
	return &news{p: p, self: newEpoch(), wake: make(chan struct{}, 1), told: make(map[string]int64), pending: make(map[string]int64)}
}

// tell says that this node has changed a box, after the commit.
func (n *news) tell(box string, changes int64) {
	n.mu.Lock()
	n.pending[box] = max(changes, n.pending[box])
	n.mu.Unlock()
	n.heard(box, changes)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// heard tells our own watchers. The name is noted before: a change after this one has a greater count and is told again.
func (n *news) heard(box string, changes int64) {
	n.mu.Lock()
	if changes == 0 {
		delete(n.told, box)
	} else {
		n.told[box] = max(n.told[box], changes)
	}
	n.mu.Unlock()
	n.p.watch.tell(box)
}

// run sends and listens until ctx ends.
func (n *news) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { n.send(ctx) })
	both.Go(func() { n.receive(ctx) })
	both.Wait()
}

// send tells other nodes; what gathers while one message is under way goes into the next.
func (n *news) send(ctx context.Context) {
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		pending := n.pending
		n.pending = make(map[string]int64)
		n.mu.Unlock()
		for _, text := range notices(n.self, pending) {
			limited, cancel := context.WithTimeout(ctx, actLimit)
			_, err := n.p.pool.Exec(limited, `SELECT pg_notify($1, $2)`, newsChannel, text)
			cancel()
			if err != nil && ctx.Err() == nil { // the others will see it by the counters
				n.p.log.Info("could not tell the other nodes at once what has changed", "err", err)
			}
		}
	}
}

// notices writes messages: the node, then a line for each box.
func notices(self string, boxes map[string]int64) (texts []string) {
	var b strings.Builder
	for box, changes := range boxes {
		line := fmt.Sprintf("\n%d %s", changes, box)
		if b.Len()+len(line) > newsMost {
			texts = append(texts, b.String())
			b.Reset()
		}
		if b.Len() == 0 {
			b.WriteString(self)
		}
		b.WriteString(line)
	}
	if b.Len() > 0 {
		texts = append(texts, b.String())
	}
	return texts
}

// readNotice reads what notices wrote. Whoever is let into the database can send anything: lines that are not understood are passed over, the counters tell what is true.
func readNotice(text string, each func(box string, changes int64)) (node string) {
	node, rest, _ := strings.Cut(text, "\n")
	for line := range strings.SplitSeq(rest, "\n") {
		count, box, ok := strings.Cut(line, " ")
		changes, err := strconv.ParseInt(count, 10, 64)
		if ok && err == nil && changes >= 0 && box != "" {
			each(box, changes)
		}
	}
	return node
}

// receive listens on a connection of its own, which it makes anew whenever it breaks.
func (n *news) receive(ctx context.Context) {
	away := false
	for ctx.Err() == nil {
		err := n.listen(ctx, func() {
			if away {
				n.p.log.Info("the database of the hub answers again", "at", n.p.where)
			}
			away = false
		})
		if ctx.Err() != nil {
			return
		}
		if !away {
			n.p.log.Warn("the database of the hub is away; what comes in is refused until it answers", "err", n.p.failed(ctx, err))
		}
		away = true
		select {
		case <-time.After(newsRetry):
		case <-ctx.Done():
		}
	}
}

func (n *news) listen(ctx context.Context, there func()) error {
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	conn, err := pgx.ConnectConfig(limited, n.p.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(limited))
	if _, err := conn.Exec(limited, `LISTEN `+newsChannel); err != nil {
		return err
	}
	for {
		if err := n.compare(ctx, conn); err != nil {
			return err
		}
		there()
		if err := n.hear(ctx, conn); err != nil {
			return err
		}
	}
}

// hear takes messages until it is time to compare.
func (n *news) hear(ctx context.Context, conn *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, newsSweep)
	defer cancel()
	for {
		m, err := conn.WaitForNotification(limited)
		if limited.Err() != nil && !conn.IsClosed() {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		var boxes []string
		var counts []int64
		node := readNotice(m.Payload, func(box string, changes int64) { boxes, counts = append(boxes, box), append(counts, changes) })
		if node == n.self {
			continue
		}
		for i, box := range boxes {
			n.heard(box, counts[i])
		}
	}
}

// compare reads all counters and tells what is not told yet.
func (n *news) compare(ctx context.Context, conn *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	n.mu.Lock()
	gone := make(map[string]bool, len(n.told)) // known before the question
	for box := range n.told {
		gone[box] = true
	}
	n.mu.Unlock()
	rows, err := conn.Query(limited, `SELECT server, changes FROM tally JOIN box ON box.n=tally.box WHERE changes>0`)
	if err != nil {
		return err
	}
	var box string
	var changes int64
	if _, err := pgx.ForEachRow(rows, []any{&box, &changes}, func() error {
		delete(gone, box)
		n.mu.Lock()
		differs := n.told[box] != changes // also when somebody told us of more than there is
		n.told[box] = changes
		n.mu.Unlock()
		if differs {
			n.p.watch.tell(box)
		}
		return nil
	}); err != nil {
		return err
	}
	for box := range gone {
		n.heard(box, 0)
	}
	return nil
}

// Changes is part of Spool.
func (p *server) Changes(ctx context.Context) <-chan string { return p.watch.changes(ctx) }
