// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
	"hallig/appliance/supervise"
	"hallig/appliance/update"
)

type kind int

const (
	restart kind = iota
	powerOff
	reset      // erase /perm, then restart
	trialStart // boot the other slot on trial
	goingBack  // boot the system before from now on
)

// ending is how the box shall go down.
type ending struct {
	kind kind
	why  string
	mark string // of the file that asked for a reset
	plan update.BackPlan
}

// ask hands an ending to the main loop.
func (b *box) ask(e ending) error {
	select {
	case b.endings <- e:
		return nil
	default:
		return steward.Text{De: "Die Box fährt schon herunter.", En: "The box is going down already."}
	}
}

// end stops everything in order and leaves the machine to its firmware. It does not return, but for a trial that could not be started before
// anything was stopped.
func (b *box) end(e ending) {
	b.log.Printf("going down: %s", e.why)
	b.screen.line("Die Box fährt herunter, bitte warten / the box is going down, please wait")
	b.keepSeed()
	b.stopPrograms(45 * time.Second)
	if e.kind == goingBack {
		if err := b.switchBack(e.plan); err != nil {
			b.log.Printf("back to the system before: %v", err)
		}
	}
	b.closeDisks()
	switch e.kind {
	case reset:
		b.erase(e)
	case trialStart:
		b.bootTrial()
	case powerOff:
		b.screen.line("Ausgeschaltet; der Stecker kann gezogen werden / switched off; you can pull the plug")
		b.leave(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	b.leave(unix.LINUX_REBOOT_CMD_RESTART)
}

// stopPrograms ends all processes and waits for them, at most so long; the watchdog is petted meanwhile.
func (b *box) stopPrograms(most time.Duration) {
	b.stop()
	done := make(chan struct{})
	go func() { b.working.Wait(); close(done) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for until := time.Now().Add(most); time.Now().Before(until); {
		select {
		case <-done:
			return
		case <-tick.C:
			b.crew.Reap()
			b.dog.pet()
		}
	}
	b.log.Printf("not everything has stopped within %s", most)
}

// closeDisks writes everything down and lets go of all file systems that can be written to.
func (b *box) closeDisks() {
	b.mu.Lock()
	sticks, perm := slices.Clone(b.sticks), b.perm
	b.perm = false
	b.mu.Unlock()
	for _, s := range sticks {
		if err := b.unmount(s, 0); err != nil {
			b.unmount(s, unix.MNT_DETACH)
		}
	}
	b.log.Printf("end after %.0f s", uptime().Seconds())
	b.rings.Detach()
	debug.SetCrashOutput(nil, debug.CrashOptions{}) // its file is on /perm
	if perm {
		b.leavePerm()
	}
	b.closeVault()
	unix.Sync()
}

// leavePerm unmounts /perm; where something still holds it, read-only has to do.
func (b *box) leavePerm() {
	for range 20 {
		err := unix.Unmount(b.at.Perm, 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return
		}
		b.dog.pet()
		time.Sleep(100 * time.Millisecond)
	}
	if err := unix.Mount("", b.at.Perm, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		b.screen.line("/perm: %v", err)
	}
}

// leave hands the machine over. A firmware that does not take it gets a restart, and then the watchdog.
func (b *box) leave(how int) {
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		b.screen.line("reboot: %v", err)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// erase makes the box a new one.
func (b *box) erase(e ending) {
	b.mu.Lock()
	dev := b.disk
	b.mu.Unlock()
	b.screen.line("Zurücksetzen auf Werkszustand: nicht ausschalten / factory reset: do not switch off")
	l := b.dog.hold(diskPatience, func() {})
	defer l.loose()
	last := -1
	err := dev.Erase(e.mark, func(done float64) {
		l.more()
		if p := int(done * 100); p > last {
			last = p
			b.screen.line("Zurücksetzen / factory reset: %d %%", p)
		}
	})
	if err != nil {
		b.screen.line("Zurücksetzen: %v", err)
		b.dog.pet()
		time.Sleep(10 * time.Second) // somebody reads it; the next start goes on
		return
	}
}

// rememberReset notes on the new /perm which file asked for the reset, so that the stick, still plugged in, does not ask again.
func (b *box) rememberReset() {
	b.mu.Lock()
	mark := b.resetBy
	b.mu.Unlock()
	if mark == "" {
		return
	}
	if err := renameio.WriteFile(b.at.system("reset-by"), []byte(mark+"\n"), 0o600); err != nil {
		b.log.Printf("note which file asked for the factory reset: %v", err)
	}
}

// resetByStick takes a file hallig-factory-reset as consent when it names this box and has not been obeyed before.
func (b *box) resetByStick(s *stick, name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	raw, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return false
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(raw), "\xef\xbb\xbf"))
	sum := sha256.Sum256(fmt.Appendf(raw, "\x00%s\x00%d", s.Format.ID, st.ModTime().Unix()))
	mark := hex.EncodeToString(sum[:])
	if done, err := os.ReadFile(b.at.system("reset-by")); err == nil && strings.TrimSpace(string(done)) == mark {
		return false
	}
	if err := b.meant(text); err != nil {
		s.err = sentence(err, "", "")
		b.log.Printf("factory reset by stick %s: %v", s.Name, err)
		return false
	}
	b.log.Printf("factory reset by stick %s", s.Name)
	return b.ask(ending{kind: reset, why: "factory reset by a file on stick " + s.Name, mark: mark}) == nil
}

// bootTrial boots the other slot, which startTrial has loaded.
func (b *box) bootTrial() {
	dev, d, err := b.openSlots()
	if err == nil {
		defer dev.Close()
		err = update.RebootTrial(d)
	}
	b.screen.line("%v", err) // a restart follows, into the system that runs now; its init tells that the trial failed
}

// rss is this process's own.
func rss() int64 { return supervise.RSS(os.Getpid()) }
