// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/provision"
	"hallig/appliance/vault"
	"hallig/tools/imagetest/blocklog"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

const (
	lockCode  = "K7MQ-2FXV-9TDP-44AB"
	lockTyped = "k7mq 2fxv 9tdp 44ab" // as people type it
	lockSays  = "Pegel 5,20 m an der Schleuse, Deichwache verstärken"
	lockCuts  = 3 // disks after a power cut that are booted
)

// lockWords are what a thief would look for on the disk.
var lockWords = []string{lockSays, "friederike", "hinnerk", "box7.feuerwehr.example"}

// lockedBox tells of a box whose data is encrypted: what a thief finds on its disk, who opens it, and what a power cut takes from it.
func lockedBox(r *run) error {
	plain, err := r.lockDay("plain", "")
	if err != nil {
		return fmt.Errorf("the box to compare with: %w", err)
	}
	found, ext4, err := thief(plain.disk)
	if err != nil {
		return err
	}
	// Without this nothing that follows would mean anything.
	if !ext4 || len(found) != len(lockWords) {
		return fmt.Errorf("a thief who takes a box that is not locked finds only %q (ext4: %v)", found, ext4)
	}
	again, err := r.power(plain.Config, firstBoot)
	if err != nil {
		return fmt.Errorf("the box to compare with: %w", err)
	}
	again.Kill()
	if err := os.Remove(plain.disk); err != nil {
		return err
	}
	locked, err := r.lockDay("locked", lockCode)
	if err != nil {
		return err
	}
	if found, ext4, err = thief(locked.disk); err != nil {
		return err
	}
	r.check(len(found) == 0, "a thief reads on the encrypted disk: %q", found)
	r.check(!ext4, "the encrypted partition has the magic of ext4")
	r.say("a thief finds nothing of %d words; on the disk of a box without a lock all of them", len(lockWords))
	r.note("locked box: first answer after %.1f s (plain %.1f s), a message in %v (plain %v), hallig-vault takes %s",
		locked.took.Seconds(), plain.took.Seconds(), locked.commit.Round(time.Millisecond), plain.commit.Round(time.Millisecond), locked.memory)
	if err := r.lockByCode(locked); err != nil {
		return fmt.Errorf("start without the stick: %w", err)
	}
	second, err := r.lockCut(locked)
	if err != nil {
		return fmt.Errorf("power cut: %w", err)
	}
	r.note("second boot to the first answer: %.1f s locked, with the stick; %.1f s plain", second.Seconds(), again.took.Seconds())
	return nil
}

// lockLife is a box that has lived a day.
type lockLife struct {
	*box
	disk, stick  string
	room, id     string
	took, commit time.Duration
	memory       string // of hallig-vault
}

// lockDay prepares a box by a stick, with a lock when there is a code, lets two people meet on it and switches it off by its button.
func (r *run) lockDay(name, code string) (l lockLife, err error) {
	if l.disk, err = r.newDisk(vm.BIOS, name); err != nil {
		return l, err
	}
	file, err := marshal(provision.File{ServerName: "box7.feuerwehr.example", AdminCode: "k7mq-2fxv-9tdp", Lock: provision.Lock{Code: code}})
	if err != nil {
		return l, err
	}
	l.stick = r.path(name + ".stick")
	if err := vm.NewStick(l.stick, 64, map[string][]byte{provision.FileName: file}); err != nil {
		return l, err
	}
	if l.box, err = r.power(vm.Config{Dir: r.path(name), Disk: l.disk, Sticks: []string{l.stick}}, firstBoot); err != nil {
		return l, err
	}
	l.took = l.box.took
	if err := l.enrolBy("k7mq-2fxv-9tdp", "friederike", "hinnerk"); err != nil {
		return l, err
	}
	if l.room, l.id, err = l.converse(lockSays); err != nil {
		return l, err
	}
	if l.commit, err = l.lockCommit(); err != nil {
		return l, err
	}
	r.say("%s: answers after %.1f s; friederike and hinnerk have met; a message takes %v", name, l.took.Seconds(), l.commit.Round(time.Millisecond))
	ctx, stop := r.within(2 * time.Minute)
	defer stop()
	if code != "" {
		if l.memory, err = l.lockMemory(ctx); err != nil {
			return l, err
		}
	}
	if err := l.Off(ctx); err != nil {
		return l, fmt.Errorf("switch off: %w; the console ends: %s", err, l.Console.Tail(10))
	}
	if code == "" {
		return l, nil
	}
	files, err := vm.ListFAT(l.stick, vm.StickOffset)
	if err != nil {
		return l, err
	}
	if !slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(f, "hallig-key-") }) {
		return l, fmt.Errorf("no key file on the stick, only %v", files)
	}
	r.say("the key is on the stick: %v; hallig-vault took %s", files, l.memory)
	return l, nil
}

// enrolBy is enrol with a code that is known before.
func (b *box) enrolBy(code, first, second string) error {
	ctx, stop := b.r.within(3 * time.Minute)
	defer stop()
	admin, err := b.register(ctx, first, code)
	if err != nil {
		return err
	}
	token, err := b.inviteCode(ctx, admin, 1)
	if err != nil {
		return err
	}
	_, err = b.register(ctx, second, token)
	return err
}

// lockCommit is how long a message takes from sending it until it is acknowledged: the median of some.
func (l *lockLife) lockCommit() (time.Duration, error) {
	ctx, stop := l.r.within(2 * time.Minute)
	defer stop()
	var took []time.Duration
	for i := range 31 {
		began := time.Now()
		if _, err := l.people[0].SendText(ctx, l.room, fmt.Sprintf("Messung %d", i)); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

var vaultRow = regexp.MustCompile(`<td>hallig-vault</td><td[^>]*>([^<]+)</td>`)

// lockMemory reads on the page what the encrypting process takes.
func (l *lockLife) lockMemory(ctx context.Context) (string, error) {
	br, err := l.browse(ctx, l.people[0].UserID)
	if err != nil {
		return "", err
	}
	page, err := br.get(ctx, "/admin/device")
	if err != nil {
		return "", err
	}
	g := vaultRow.FindStringSubmatch(page)
	if g == nil {
		return "", errors.New("the page does not name hallig-vault among the programs")
	}
	return strings.TrimSpace(g[1]), nil
}

// thief reads the data partition of a disk as it lies on the table: which of the words are on it in the clear, and whether it is an ext4.
func thief(disk string) (found []string, ext4 bool, err error) {
	d, err := offline.Open(disk)
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	parts, err := d.Partitions(false)
	if err != nil {
		return nil, false, err
	}
	p := parts[4]
	f, err := os.Open(disk)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	for _, start := range []int64{p.Start, p.Start + vault.DataStart} {
		var magic [2]byte
		if _, err := f.ReadAt(magic[:], start+0x438); err != nil {
			return nil, false, err
		}
		ext4 = ext4 || magic == [2]byte{0x53, 0xef}
	}
	const piece, overlap = 4 << 20, 256
	buf := make([]byte, piece+overlap)
	end := p.Start + p.Size
	for at := p.Start; at < end; at += piece {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA) // a new disk is mostly holes
		if errors.Is(err, unix.ENXIO) || data >= end {
			break
		}
		if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", disk, err)
		}
		at = max(at, data-overlap)
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, false, fmt.Errorf("read %s: %w", disk, err)
		}
		for _, w := range lockWords {
			if !slices.Contains(found, w) && bytes.Contains(buf[:n], []byte(w)) {
				found = append(found, w)
			}
		}
	}
	return found, ext4, nil
}

// lockByCode starts the box without its stick.
func (r *run) lockByCode(l lockLife) error {
	c := l.Config
	c.Sticks = nil
	c.Memory = 256 // the smallest box that we think of
	b, err := r.switchOn(c)
	if err != nil {
		return err
	}
	defer b.Kill()
	l.moveTo(b)
	ctx, stop := r.within(2 * time.Minute)
	defer stop()
	took, err := b.Answers(ctx, portHTTP, "/", http.StatusOK)
	if err != nil {
		return err
	}
	for _, t := range []struct {
		method, path, code string
		want               int
		says               string
	}{
		{http.MethodGet, "/", "", http.StatusOK, "verschlossen"},
		{http.MethodGet, "/", "", http.StatusOK, "locked"},
		{http.MethodGet, versions, "", http.StatusServiceUnavailable, "locked"},
		{http.MethodPost, "/", "K7MQ", http.StatusBadRequest, "too short"},
		{http.MethodPost, "/", "K7MQ-2FXV-9TDP-44AC", http.StatusForbidden, "does not open"},
	} {
		if err := b.lockAsk(ctx, t.method, t.path, t.code, t.want, t.says); err != nil {
			return err
		}
	}
	open := b.openPorts()
	r.check(slices.Equal(open, []int{portHTTP}), "a locked box has the ports %v open", open)
	if _, err := b.Console.Wait(ctx, `verschlossen`); err != nil {
		return fmt.Errorf("the screen: %w", err)
	}
	r.say("without the stick the locked page is there after %.1f s; a wrong code is refused", took.Seconds())
	began := time.Now()
	if err := b.lockAsk(ctx, http.MethodPost, "/", lockTyped, http.StatusOK, "open and starting"); err != nil {
		return err
	}
	derived := time.Since(began)
	if err := b.up(firstBoot); err != nil {
		return err
	}
	r.say("the code opens it: taken after %.1f s, the box answers %.1f s after it was typed", derived.Seconds(), time.Since(began).Seconds())
	r.note("locked box: its page after %.1f s; from the code typed to the first answer %.1f s", took.Seconds(), time.Since(began).Seconds())
	if err := b.holds(b.people[1], l.room, l.id); err != nil {
		return err
	}
	return b.pictures(l.room)
}

// pictures has files sent that are larger than the memory of the box together, while somebody writes, and reads them back. The process that encrypts takes
// part in whatever the kernel writes in order to get memory: if it waited for memory itself, the box would stand still.
func (b *box) pictures(room string) error {
	const count, size = 12, 16 << 20
	ctx, stop := b.r.within(4 * time.Minute)
	defer stop()
	began := time.Now()
	writing, done := context.WithCancel(ctx)
	defer done()
	slowest := make(chan time.Duration, 1)
	go func() { // ends with writing
		var worst time.Duration
		for k := 0; writing.Err() == nil; k++ {
			sent := time.Now()
			if _, err := b.people[1].SendText(writing, room, fmt.Sprintf("neben den Bildern %d", k)); err == nil {
				worst = max(worst, time.Since(sent))
			}
		}
		slowest <- worst
	}()
	picture := func(i int) []byte {
		p := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(i)}).Read(p) // never fails
		return p
	}
	var at []string
	for i := range count {
		mxc, err := b.people[0].Upload(ctx, "image/jpeg", fmt.Sprintf("deich%d.jpg", i), bytes.NewReader(picture(i)))
		if err != nil {
			return fmt.Errorf("picture %d: %w; the console ends: %s", i, err, b.Console.Tail(10))
		}
		at = append(at, mxc)
	}
	took := time.Since(began)
	done()
	worst := <-slowest
	for i, mxc := range at {
		body, _, err := b.people[1].Download(ctx, mxc)
		if err != nil {
			return fmt.Errorf("picture %d: %w", i, err)
		}
		if !bytes.Equal(body, picture(i)) {
			return fmt.Errorf("picture %d comes back with other bytes", i)
		}
	}
	r := b.r
	r.say("%d pictures of %d MiB on a locked box with 256 MB: taken in %.0f s and read back; the slowest message beside them took %.1f s", count, size>>20, took.Seconds(), worst.Seconds())
	r.note("locked box with 256 MB: %d MiB of pictures taken in %.0f s (emulated processor without AES), slowest message meanwhile %.1f s", count*size>>20, took.Seconds(), worst.Seconds())
	return nil
}

// lockAsk asks the locked page.
func (b *box) lockAsk(ctx context.Context, method, path, code string, want int, says string) error {
	var form io.Reader
	if code != "" {
		form = strings.NewReader(url.Values{"code": {code}}.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, b.URL(portHTTP)+path, form)
	if err != nil {
		return err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("locked page: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("locked page: %w", err)
	}
	if resp.StatusCode != want || !strings.Contains(string(text), says) {
		return fmt.Errorf("locked page: %s %s with code %q answers %s, want %d and %q: %.300s", method, path, code, resp.Status, want, says, text)
	}
	return nil
}

// lockCut pulls the plug while both write, and starts the box with its stick in: the disk as it is, and the disk as other cuts in the same minute would have
// left it. It says how long the start took.
func (r *run) lockCut(l lockLife) (took time.Duration, err error) {
	c := l.Config
	base := r.path("locked.base.img")
	if err := vm.CopySparse(base, c.Disk); err != nil {
		return 0, err
	}
	c.Record = r.path("locked.record")
	if err := os.WriteFile(c.Record, nil, 0o644); err != nil {
		return 0, err
	}
	b, err := r.power(c, firstBoot)
	if err != nil {
		return 0, fmt.Errorf("with the stick: %w", err)
	}
	r.say("with the stick it opens by itself: answers after %.1f s", b.took.Seconds())
	l.moveTo(b)
	if err := b.Do("device_del", map[string]any{"id": "devstick0"}, nil); err != nil { // as the sheet tells people to
		return 0, err
	}
	story := &life{base: base, room: l.room, people: b.people}
	w := &writers{run: r, b: b, l: story}
	if err := w.end("start"); err != nil {
		return 0, err
	}
	if err := w.writeUntilCut(60); err != nil {
		return 0, err
	}
	r.add(&r.tally.cuts, 1)
	if err := w.end("messages"); err != nil {
		return 0, err
	}
	if story.record, err = blocklog.Open(c.Record); err != nil {
		return 0, err
	}
	defer story.record.Close()
	var all []string
	for _, a := range story.acks {
		all = append(all, a.id)
	}
	r.say("the stick is taken out, and the plug is pulled while both write; %d messages were acknowledged", len(all))
	c.Record = ""
	if err := r.lockHolds(c, b, l.room, append(all, l.id)); err != nil {
		return 0, err
	}
	story.phases = story.phases[1:] // cuts among the messages alone
	for _, cut := range story.choose(r.seed, lockCuts) {
		c.Disk = r.disk(cut)
		if err := rebuild(story, cut, c.Disk); err != nil {
			return 0, err
		}
		r.add(&r.tally.cuts, 1)
		due := story.due(cut.Cut)
		if err := r.lockHolds(c, b, l.room, append(due, l.id)); err != nil {
			r.check(false, "%s: %v; the disk is kept: %s", cut, err, c.Disk)
			continue
		}
		r.say("%s: opens by itself, all %d acknowledged messages are there", cut, len(due))
		if err := os.Remove(c.Disk); err != nil {
			return 0, err
		}
	}
	return b.took, nil
}

// writeUntilCut has everybody write until n messages are acknowledged, and pulls the plug under the next ones.
func (w *writers) writeUntilCut(n int) error {
	ctx, stop := w.within(4 * time.Minute)
	defer stop()
	var wg sync.WaitGroup
	enough := make(chan struct{})
	var once sync.Once
	for i, c := range w.b.people {
		wg.Go(func() {
			for k := 0; ; k++ {
				if w.send(ctx, c, fmt.Sprintf("Meldung %d.%d", i, k)) != nil {
					return // the plug was pulled, or time is up: what was not acknowledged does not count
				}
				w.mu.Lock()
				full := len(w.l.acks) >= n
				w.mu.Unlock()
				if full {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	var err error
	select {
	case <-enough:
	case <-ctx.Done():
		err = fmt.Errorf("only %d messages were acknowledged: %w", len(w.l.acks), ctx.Err())
	}
	w.b.Kill()
	wg.Wait()
	return err
}

// rebuild makes the disk as a cut leaves it.
func rebuild(l *life, c chosenCut, disk string) error {
	if err := vm.CopySparse(disk, l.base); err != nil {
		return err
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(l.record.Apply(f, 0, c.Durable), l.record.Finish(f, c.Cut), f.Close())
}

// lockHolds switches a box on with its stick in and looks for events.
func (r *run) lockHolds(c vm.Config, before *box, room string, ids []string) error {
	b, err := r.power(c, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	before.moveTo(b)
	return b.holds(b.people[0], room, ids...)
}
