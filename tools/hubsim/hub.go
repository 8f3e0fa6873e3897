// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
	"hallig/tools/testpostgres"
)

const perProcess = 1000 // boxes

// fleet is a hub with its boxes.
type fleet struct {
	o        *options
	dirs     []string // of the nodes
	world    []string // where the nodes answer others
	meeting  []string // where boxes find them
	database *testpostgres.Server
	far      *farServer
	nodes    []*process
	pens     []pen // of the nodes; none: they have what there is
	boxes    []*process
	sent     int64
	quiet    quiet
}

// quiet is what is used up when nothing happens, in processors.
type quiet struct{ nodes, database float64 }

// wholeHub tells the story of a hub whose boxes come, idle, get more and more, and lose a node.
func wholeHub(ctx context.Context, o *options) (err error) {
	f := &fleet{o: o}
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.prepare(ctx); err != nil {
		return err
	}
	if err := f.startNodes(); err != nil {
		return err
	}
	empty := f.rss()
	if err := f.startBoxes(); err != nil {
		return err
	}
	if err := f.idle(ctx, empty); err != nil {
		return err
	}
	if err := f.questions(ctx); err != nil {
		return err
	}
	if err := f.load(ctx); err != nil {
		return err
	}
	for n := range o.kills {
		if err := f.loseNode(ctx, n%o.nodes, syscall.SIGKILL); err != nil {
			return err
		}
	}
	if o.kills == 0 {
		return nil
	}
	n, err := f.fullest(ctx) // nodes that were killed have come back without boxes
	if err != nil {
		return err
	}
	return f.loseNode(ctx, n, syscall.SIGSTOP)
}

// prepare writes down who everybody is: nodes share one identity, boxes are in the roster already.
func (f *fleet) prepare(ctx context.Context) error {
	ca, err := testpeer.NewCA(f.o.dir)
	if err != nil {
		return err
	}
	for n := range f.o.nodes {
		dir := filepath.Join(f.o.dir, fmt.Sprint("node", n))
		world, err1 := testport.Take()
		meeting, err2 := testport.Take()
		if err := errors.Join(err1, err2, os.Mkdir(dir, 0o700)); err != nil {
			return err
		}
		f.dirs, f.world, f.meeting = append(f.dirs, dir), append(f.world, world), append(f.meeting, meeting)
	}
	id, err := identity.Load(f.dirs[0], hubName, false)
	if err != nil {
		return err
	}
	statement, err := id.Statement()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.o.dir, "statement"), statement, 0o600); err != nil {
		return err
	}
	for _, dir := range f.dirs[1:] {
		for _, name := range []string{identity.BoxKeyFile, identity.SigningKeyFile} {
			raw, err := os.ReadFile(filepath.Join(f.dirs[0], name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), raw, 0o600)
			}
			if err != nil {
				return err
			}
		}
	}
	if f.far, err = newFar(ca, f.o.dir, f.world); err != nil {
		return err
	}
	url, err := f.fillSpool(ctx)
	if err != nil {
		return err
	}
	for n, dir := range f.dirs {
		_, port, _ := net.SplitHostPort(f.meeting[n]) // it is one
		internal, err := testport.Take()
		if err != nil {
			return err
		}
		config, err := json.Marshal(map[string]any{
			"internal": internal, "page": "off",
			"ca_file": ca.File, "private_addresses": true, "server_addresses": map[string]string{farName: f.far.listener.Addr().String()}, "listen": f.world[n],
			"p2p": map[string]any{"listen": []string{"/ip4/127.0.0.1/tcp/" + port}}, "database": url, "server_name": hubName,
			"tls": []map[string]string{{"ca_certificate": ca.File, "ca_key": ca.KeyFile}},
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "hub.json"), config, 0o600)
		}
		if err != nil {
			return err
		}
		f.meeting[n] = "/ip4/127.0.0.1/tcp/" + port + "/p2p/" + string(peerID(statement))
	}
	return nil
}

// fillSpool writes the boxes into the memory that the nodes will have, and gives the address of a database.
func (f *fleet) fillSpool(ctx context.Context) (url string, err error) {
	var s spool.Spool
	if f.o.nodes == 1 {
		s, err = spool.Open(filepath.Join(f.dirs[0], "spool.db"), spool.Limits{}, nil)
	} else {
		url, s, err = f.openDatabase(ctx)
	}
	if err != nil {
		return "", err
	}
	return url, errors.Join(putBoxes(ctx, s, f.o.boxes+f.o.dark), s.Close())
}

func (f *fleet) openDatabase(ctx context.Context) (url string, s spool.Spool, err error) {
	if f.database, err = testpostgres.Start(); err != nil {
		return "", nil, err
	}
	if err := f.database.Create("hub", ""); err != nil {
		return "", nil, err
	}
	url = f.database.URL("hub")
	s, err = spool.Connect(ctx, url, spool.Limits{}, nil)
	return url, s, err
}

func putBoxes(ctx context.Context, s spool.Spool, n int) error {
	return many(16, n, func(i int) error {
		id := boxIdentity(i)
		statement, err := id.Statement()
		if err != nil {
			return err
		}
		return s.PutBox(ctx, spool.Box{Server: id.Server, ID: string(peerID(statement)), Statement: statement, Mode: spool.Sealed, Added: time.Now()})
	})
}

func (f *fleet) startNodes() error {
	f.nodes = make([]*process, len(f.dirs))
	for n := range f.dirs {
		if f.o.cores > 0 {
			p, err := newPen(fmt.Sprintf("hubsim-%d-%d", os.Getpid(), n), f.o.cores/float64(f.o.slow))
			if err != nil {
				return err
			}
			f.pens = append(f.pens, p)
		}
		if err := f.startNode(n); err != nil {
			return err
		}
	}
	for n := range f.dirs {
		if err := f.answers(n); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startNode(n int) error {
	cmd := exec.Command(f.o.hub, "serve", "--data", f.dirs[n], "--quiet")
	said, err := os.OpenFile(filepath.Join(f.dirs[n], "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd.Stderr = said
	f.nodes[n], err = startProcess(fmt.Sprint("node ", n), cmd)
	said.Close() // the process has it
	if err == nil && f.pens != nil {
		err = f.pens[n].take(f.nodes[n].cmd.Process.Pid)
	}
	return err
}

// answers waits until a node does.
func (f *fleet) answers(n int) error {
	_, err := until("a node to answer", time.Minute, func() bool {
		c, err := net.Dial("tcp", f.world[n])
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return err
}

// startBoxes lets the boxes come, so many at once: here they have no processors of their own, and ten thousand that shake hands on one machine at the same moment would all be too slow.
func (f *fleet) startBoxes() error {
	before, begin := f.nodeCPU(), time.Now()
	for from := 0; from < f.o.boxes; from += perProcess {
		to := min(from+perProcess, f.o.boxes)
		p, err := startRole("boxes", "-from", strconv.Itoa(from), "-to", strconv.Itoa(to), "-hub", filepath.Join(f.o.dir, "statement"), "-at", strings.Join(f.meeting, ","))
		if err != nil {
			return err
		}
		f.boxes = append(f.boxes, p)
		if to%f.o.wave != 0 && to < f.o.boxes {
			continue
		}
		took, err := until("the boxes to be connected and heard", 5*time.Minute, func() bool { return f.sum("heard") >= int64(to) })
		if err != nil {
			return fmt.Errorf("%w: %d are connected, %d were heard", err, f.sum("connected"), f.sum("heard"))
		}
		if f.o.wave < f.o.boxes {
			fmt.Printf("# %d boxes are there; the last %d took %.1f s\n", to, f.o.wave, took.Seconds())
		}
	}
	say("connect_s", time.Since(begin).Seconds(), "s", fmt.Sprintf("until all %d boxes have connected, %d at once, and made contact, %d of them not at the first attempt; %d nodes", f.o.boxes, min(f.o.wave, f.o.boxes), f.sum("failed"), f.o.nodes))
	say("connect_cpu_ms", (f.nodeCPU()-before).Seconds()*1000/float64(f.o.boxes), "ms", "CPU of the nodes for one box that comes: handshakes, lease, contact")
	return nil
}

// idle measures what boxes cost that are only there.
func (f *fleet) idle(ctx context.Context, empty int64) error {
	pause(ctx, min(5*time.Second, 10*f.o.idle)) // what came with the contacts is done
	nodes, database, begin := f.nodeCPU(), f.databaseCPU(), time.Now()
	pause(ctx, f.o.idle)
	wall := time.Since(begin).Seconds()
	f.quiet = quiet{(f.nodeCPU() - nodes).Seconds() / wall, (f.databaseCPU() - database).Seconds() / wall}
	say("idle_cpu_per_box_percent", 100*f.quiet.nodes/float64(f.o.boxes), "%", fmt.Sprintf("of a core, all nodes together, %d boxes connected and quiet for %v, %d more away", f.o.boxes, f.o.idle, f.o.dark))
	if f.database != nil {
		say("idle_database_cpu_percent", 100*f.quiet.database, "%", "of a core, PostgreSQL's processes meanwhile")
	}
	say("sim_rss_per_box_mb", float64(f.boxRSS())/(1<<20)/float64(f.o.boxes), "MB", "VmRSS of the processes that play boxes: what this machine must have for one")
	say("rss_per_1000_boxes_mb", float64(f.rss()-empty)/(1<<20)*1000/float64(f.o.boxes), "MB", fmt.Sprintf("VmRSS of the nodes with %d boxes, %.0f MB, less what it was before the first one came", f.o.boxes, float64(f.rss())/(1<<20)))
	return ctx.Err()
}

// load sends more and more, until it does not come through any more.
func (f *fleet) load(ctx context.Context) error {
	for _, text := range strings.Split(f.o.rates, ",") {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("-rates: %w", err)
		}
		nodes, database, boxes, self, machine, begin := f.nodeCPU(), f.databaseCPU(), f.boxCPU(), cpu(os.Getpid()), machineCPU(), time.Now()
		took, err := f.flood(ctx, rate, f.o.step)
		if err != nil {
			return err
		}
		wall := time.Since(begin)
		lag, err := f.arrived()
		if err != nil {
			return err
		}
		nodes, database, boxes, self, machine = f.nodeCPU()-nodes, f.databaseCPU()-database, f.boxCPU()-boxes, cpu(os.Getpid())-self, machineCPU()-machine
		each := func(d time.Duration, quiet float64) float64 {
			return (d.Seconds() - quiet*(wall+lag).Seconds()) * 1000 / float64(len(took))
		}
		hub, server := each(nodes, f.quiet.nodes), each(database, f.quiet.database)
		all := (wall + lag).Seconds() * float64(f.o.slow*cores())
		busy, ours := 100*machine.Seconds()/all, 100*(nodes+database+boxes+self).Seconds()/all
		name := "at_" + text + "_per_s"
		say(name+"_answer_p99_ms", took[len(took)*99/100].Seconds()*1000, "ms", fmt.Sprintf("from the far server's request to its 200; %d transactions of 1.6 kB to boxes that are there", len(took)))
		say(name+"_lag_s", lag.Seconds(), "s", "from the last answer until the last box had its own")
		say(name+"_hub_cpu_ms", hub+server, "ms", fmt.Sprintf("CPU of the hub for one transaction, without what it uses when it is quiet: nodes %.2f, database %.2f; beside them boxes %.2f, far server %.2f; the machine's processors were busy to %.0f %%, to %.0f %% with this",
			hub, server, each(boxes, 0), each(self, 0), busy, ours))
		if wall > f.o.step*3/2 || lag > f.o.step/2 {
			fmt.Printf("# %s transactions a second are more than goes through here: %d took %.1f s and %.1f s more to arrive, %.0f a second. At its end: %s\n",
				text, len(took), wall.Seconds(), lag.Seconds(), float64(len(took))/(wall+lag).Seconds(), atItsEnd(busy, ours))
			break
		}
	}
	return f.account()
}

// atItsEnd says what gave way first.
func atItsEnd(busy, ours float64) string {
	switch {
	case busy < 90:
		return "not the processors: the disk's flushes, or what waits for something in order"
	case ours < 80:
		return "the processors, but mostly with the work of others: try again on a machine that has nothing else to do"
	}
	return "the processors"
}

func (f *fleet) flood(ctx context.Context, rate float64, d time.Duration) ([]time.Duration, error) {
	return f.floodWhile(ctx, rate, func(t time.Duration) bool { return t < d })
}

func (f *fleet) floodWhile(ctx context.Context, rate float64, more func(time.Duration) bool) ([]time.Duration, error) {
	took, err := f.far.flood(ctx, f.o.boxes, f.sent, rate, more)
	f.sent += int64(len(took))
	if err == nil && len(took) == 0 {
		err = errors.New("nothing was sent")
	}
	return took, err
}

// arrived waits until boxes have what was answered 200.
func (f *fleet) arrived() (time.Duration, error) {
	took, err := until("all that was answered to arrive", 2*time.Minute, func() bool { return f.sum("taken") >= f.far.answered.Load() })
	if err != nil {
		return 0, fmt.Errorf("LOST: %w: %d answered, %d arrived", err, f.far.answered.Load(), f.sum("taken"))
	}
	return took, nil
}

func (f *fleet) account() error {
	lost := f.far.answered.Load() - f.sum("taken")
	fmt.Printf("hubsim: %d boxes on %d nodes, %d transactions answered, lost %d, out of order %d, played again %d\n", f.o.boxes, f.o.nodes, f.far.answered.Load(), lost, f.sum("late"), f.sum("again"))
	if lost != 0 || f.sum("late") != 0 {
		return errors.New("something was lost, or came in another order")
	}
	return nil
}

// questions asks boxes by way of whichever node: all but one in three or so are at another one.
func (f *fleet) questions(ctx context.Context) error {
	n := min(f.o.boxes, 300)
	took, instead, err := f.far.ask(ctx, n, f.o.boxes)
	if err != nil {
		return err
	}
	say("question_p50_ms", took[len(took)/2].Seconds()*1000, "ms", fmt.Sprintf("a question that only the box can answer, asked at any of %d nodes; of %d, %d were answered in the box's place; the slowest took %.0f ms",
		f.o.nodes, n, instead, took[len(took)-1].Seconds()*1000))
	if instead > n/50 {
		return fmt.Errorf("%d of %d questions did not reach their box", instead, n)
	}
	return nil
}

func (f *fleet) sum(word string) (n int64) {
	for _, p := range f.boxes {
		n += p.count(word)
	}
	return n
}

func (f *fleet) rss() (n int64) {
	for _, p := range f.nodes {
		n += rss(p.cmd.Process.Pid)
	}
	return n
}

func (f *fleet) boxRSS() (n int64) {
	for _, p := range f.boxes {
		n += rss(p.cmd.Process.Pid)
	}
	return n
}

func (f *fleet) nodeCPU() (d time.Duration) {
	for _, p := range f.nodes {
		d += cpu(p.cmd.Process.Pid)
	}
	return d
}

func (f *fleet) boxCPU() (d time.Duration) {
	for _, p := range f.boxes {
		d += cpu(p.cmd.Process.Pid)
	}
	return d
}

func (f *fleet) databaseCPU() time.Duration {
	if f.database == nil {
		return 0
	}
	return cpu(tree(f.database.PID())...)
}

func (f *fleet) stop() (err error) {
	for _, p := range append(f.boxes, f.nodes...) {
		if p != nil {
			p.kill() // there is nothing left to lose
		}
	}
	for _, p := range f.pens {
		err = errors.Join(err, p.remove())
	}
	if f.database != nil {
		err = errors.Join(err, f.database.Stop())
	}
	for n, dir := range f.dirs {
		if raw, _ := os.ReadFile(filepath.Join(dir, "log")); len(raw) > 0 { // nodes without words have none
			lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
			fmt.Printf("# node %d warned in %d lines, the last: %s\n", n, len(lines), lines[len(lines)-1])
		}
	}
	return err
}
