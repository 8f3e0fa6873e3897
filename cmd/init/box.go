// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/disk"
	"hallig/appliance/logring"
	"hallig/appliance/plug"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/supervise"
	"hallig/appliance/update"
)

// The users of the image. They have no names: there is no /etc/passwd that anybody reads.
const (
	uidHallig = 1000
	uidLAN    = 1001
	uidPage   = 1002
)

// places are the folders that a box lives in; tests have their own.
type places struct{ Perm, Run, Sys, Dev, Proc, Etc string }

func (p places) system(name string) string { return filepath.Join(p.Perm, "system", name) }
func (p places) run(name string) string    { return filepath.Join(p.Run, name) }

// release is what this system is: the description of its slot on the disk says it.
type release struct {
	Version string `json:"version"`
	Release int64  `json:"release"`
	Board   string `json:"board"`
	Schema  int64  `json:"schema"`
}

// box is the machine. Fields of the first group are set before the main loop and read-only afterwards.
type box struct {
	at       places
	rings    *logring.Rings
	log      *logring.Ring
	crew     *supervise.Crew
	line     string // the kernel's command line
	rtc      bool
	dog      *watchdog
	screen   *screen
	light    *light
	events   chan plug.Event // for the hands
	lost     chan struct{}
	reread   chan struct{}
	endings  chan ending
	restarts chan string // names of processes that shall start again

	working sync.WaitGroup // processes and the helpers of this file
	stop    context.CancelFunc
	running context.Context

	judging   atomic.Bool // one look at the homeserver's health at a time
	bound     atomic.Bool // /etc/machine-id shows our file
	vaultStop atomic.Bool // the vault's program is meant to end
	trial     atomic.Bool // this start tries an update that is not kept yet

	mu        sync.Mutex // guards what follows; nothing slow is done under it
	image     release
	disk      disk.Device
	slot      update.Slot
	perm      bool // /perm is mounted
	permDev   string
	resetBy   string // the file that asked for the factory reset after which /perm is new
	machineID string
	troubles  []trouble
	vault     *os.Process // serves the encrypted partition
	vaultUp   time.Time   // since when
	procs     []*supervise.Process
	hallig    *supervise.Process
	lan       *supervise.Process
	sticks    []*stick
	ports     []steward.Port
	drivers   map[string]*driver // of USB devices that the kernel has none for, by their folder in /sys
	provision steward.Provision
	accepted  provision.File // in force
	from      origin         // of the one in force
	refusals  []refusal      // the newest last
	name      nameRecord
	record    update.Record
	back      string       // version of the system before; "": none
	backSays  steward.Text // what the way back costs
	writing   *progress    // of an update that is being written
	deadline  time.Time    // of the trial
	asked     string       // the light that the homeserver asked for
	answered  time.Time    // when the homeserver last answered
	deaf      int          // process id of a homeserver that did not answer and was told to end; 0: it answers
}

type trouble struct {
	key  string
	text steward.Text
}

func newBox(at places) *box {
	b := &box{
		at: at, crew: supervise.NewCrew(), rings: logring.New(logring.Limits{}, time.Now, uptime),
		events: make(chan plug.Event, 64), lost: make(chan struct{}, 1), reread: make(chan struct{}, 1), drivers: make(map[string]*driver), endings: make(chan ending, 1), restarts: make(chan string, 4),
	}
	b.log = b.rings.Ring("init")
	b.image.Version = version
	b.running, b.stop = context.WithCancel(context.Background())
	b.screen, b.light = newScreen(at), newLight(at.Sys)
	return b
}

// say sets, or with an empty text takes away, what the box cannot help itself with.
func (b *box) say(key string, t steward.Text) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.troubles, func(x trouble) bool { return x.key == key })
	switch {
	case t.Empty() && i >= 0:
		b.troubles = slices.Delete(b.troubles, i, i+1)
	case t.Empty():
	case i >= 0:
		if b.troubles[i].text != t {
			b.troubles[i].text = t
			b.log.Printf("%s: %s", key, t.En)
		}
	default:
		b.troubles = append(b.troubles, trouble{key, t})
		b.log.Printf("%s: %s", key, t.En)
	}
}

// sentence is the text of an error for people: its own, or its words behind ours.
func sentence(err error, de, en string) steward.Text {
	var t steward.Text
	if errors.As(err, &t) {
		return t
	}
	var r *update.Refusal
	if errors.As(err, &r) {
		return steward.Text{De: r.De, En: r.En}
	}
	return steward.Text{De: fmt.Sprintf("%s (%v)", de, err), En: fmt.Sprintf("%s (%v)", en, err)}
}

// boot brings the machine up. It returns when everything that could be started was started.
func (b *box) boot() {
	b.mountKernel()
	raw, _ := os.ReadFile(filepath.Join(b.at.Proc, "cmdline"))
	b.line = strings.TrimSpace(string(raw))
	b.trial.Store(slices.Contains(strings.Fields(b.line), update.TrialWord))
	b.screen.open(b.log)
	b.log.Printf("start of %s, kernel %s, command line %s", version, b.kernel(), b.line)
	b.screen.line("Hallig %s startet / is starting", version)
	b.dog = openWatchdog(filepath.Join(b.at.Dev, "watchdog"), b.log)
	b.limits()
	b.loopback()
	b.hostname("", "")
	b.modules()
	b.readRTC()
	b.folders()
	b.help("kernel's log", b.kernelLog)
	b.help("door", b.door)
	b.help("events", func() error {
		return plug.Watch(b.running, func(e plug.Event) {
			select {
			case b.events <- e:
			default:
				b.missed()
			}
		}, b.missed)
	})
	b.help("buttons", b.buttons)
	l := b.dog.hold(diskPatience, func() {
		b.log.Printf("the disk does not come up within %s", diskPatience)
		if b.trial.Load() { // without a hardware watchdog nothing else would end it
			b.leave(unix.LINUX_REBOOT_CMD_RESTART)
		}
	})
	b.bringPerm(l.more)
	l.loose()
	b.help("hands", b.hands)
}

// diskPatience is how long a disk may take for one thing while the box starts or is erased.
const diskPatience = 10 * time.Minute

func (b *box) missed() {
	select {
	case b.lost <- struct{}{}:
	default:
	}
}

// help runs something beside the main loop until the box ends.
func (b *box) help(what string, run func() error) {
	b.working.Go(func() {
		if err := run(); err != nil && b.running.Err() == nil {
			b.log.Printf("%s: %v", what, err)
		}
	})
}

// folders makes those of /run/hallig: who writes what is in the contract of the steward.
func (b *box) folders() {
	for _, d := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
	}{
		{"", 0o755, 0, 0}, {"box", 0o755, uidHallig, uidHallig}, {"lan", 0o755, uidLAN, uidLAN}, {"sticks", 0o755, 0, 0},
	} {
		dir := b.at.run(d.name)
		err := os.MkdirAll(dir, d.mode)
		if err == nil {
			err = errors.Join(os.Chmod(dir, d.mode), os.Chown(dir, d.uid, d.gid))
		}
		if err != nil {
			b.log.Printf("make folder: %v", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(b.at.Dev, "hallig"), 0o755); err != nil {
		b.log.Printf("make folder: %v", err)
	}
}

// loop is the life of the box after its start. It returns never on a real machine.
func (b *box) loop() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	hourly, told := time.Now(), false
	for {
		b.dog.pet()
		select {
		case s := <-signals:
			switch s {
			case unix.SIGCHLD:
				b.crew.Reap()
			case unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR:
				b.end(ending{kind: powerOff, why: "signal " + s.String()})
			default:
				b.end(ending{kind: restart, why: "signal " + s.String()})
			}
		case e := <-b.endings:
			b.end(e)
		case name := <-b.restarts:
			b.again(name)
		case <-tick.C:
			b.crew.Reap()
			b.expire()
			b.lookAfter()
			b.draw()
			if now := time.Now(); now.Sub(hourly) >= time.Hour {
				hourly = now
				b.keepSeed()
				b.tellMemory()
			} else if !told && uptime() > 3*time.Minute {
				told = true
				b.tellMemory()
			}
		}
	}
}

// tellMemory notes how much memory everybody has, for those who look for the reason of a shortage later.
func (b *box) tellMemory() {
	b.mu.Lock()
	procs := slices.Clone(b.procs)
	b.mu.Unlock()
	line := fmt.Sprintf("init %.1f", float64(rss())/(1<<20))
	list := b.helpers()
	for _, p := range procs {
		list = append(list, p.Status())
	}
	for _, s := range list {
		line += fmt.Sprintf(", %s %.1f", s.Name, float64(s.RSS)/(1<<20))
	}
	total, free := b.memory()
	b.log.Printf("resident MiB: %s; available %d of %d", line, free>>20, total>>20)
}

// system is what this system is.
func (b *box) system() release {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.image
}

// again starts a process anew, for a new configuration.
func (b *box) again(name string) {
	b.mu.Lock()
	procs := slices.Clone(b.procs)
	b.mu.Unlock()
	for _, p := range procs {
		if p.Status().Name == name {
			b.log.Printf("%s starts again with its new settings", name)
			p.Restart()
		}
	}
}
