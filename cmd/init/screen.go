// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gokrazy/gokrazy/ifaddr"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
	"hallig/appliance/logring"
	"hallig/appliance/qrtext"
	"hallig/appliance/steward"
)

// screen is what is connected to the box: a monitor (a virtual console) and the serial console. It is written to, never read from.
type screen struct {
	at      places
	outs    []chan string // one writer each, which has room for the newest picture: a console that blocks stops nobody
	monitor []bool
	last    string
}

func newScreen(at places) *screen { return &screen{at: at} }

// open takes the consoles that the kernel writes to, and makes the kernel be quiet there but for what is fatal.
func (s *screen) open(log *logring.Ring) {
	raw, _ := os.ReadFile(filepath.Join(s.at.Sys, "class/tty/console/active"))
	for _, name := range strings.Fields(string(raw)) {
		monitor := strings.HasPrefix(name, "tty") && len(name) > 3 && name[3] >= '0' && name[3] <= '9'
		if name == "tty0" {
			name = "tty1"
		}
		f, err := os.OpenFile(filepath.Join(s.at.Dev, name), os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			log.Printf("open console: %v", err)
			continue
		}
		mute(f)
		out := make(chan string, 1)
		go func() { // as long as the machine
			for text := range out {
				f.WriteString(text)
			}
		}()
		s.outs, s.monitor = append(s.outs, out), append(s.monitor, monitor)
	}
	const consoleLevel, critical = 8, 3 // SYSLOG_ACTION_CONSOLE_LEVEL
	if _, _, e := unix.Syscall(unix.SYS_SYSLOG, consoleLevel, 0, critical); e != 0 {
		log.Printf("quiet the kernel: %v", e)
	}
}

// mute keeps what somebody types from appearing on the screen.
func mute(f *os.File) {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return
	}
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

func (s *screen) send(i int, text string) {
	select {
	case s.outs[i] <- text:
	default: // it is still busy with the one before; drop the older that waits
		select {
		case old := <-s.outs[i]:
			text = old + text
			if len(text) > 16<<10 {
				text = text[len(text)-16<<10:]
			}
		default:
		}
		select {
		case s.outs[i] <- text:
		default:
		}
	}
}

// line says one thing at once: on the way up or down.
func (s *screen) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for i := range s.outs {
		s.send(i, "\r"+text+"\r\n")
	}
	s.last = ""
}

// show draws a picture when it differs from the one before.
func (s *screen) show(p picture) {
	text := p.String()
	if text == s.last {
		return
	}
	s.last = text
	text = strings.ReplaceAll(text, "\n", "\r\n")
	for i := range s.outs {
		if s.monitor[i] {
			s.send(i, "\x1b[?25l\x1b[0m\x1b[2J\x1b[H"+text) // no cursor, clear, top
		} else {
			s.send(i, "\r\n"+text)
		}
	}
}

// picture is what a person at the box reads.
type picture struct {
	version   string
	name      string
	label     string // that the provisioning file gives the box
	url       string
	addresses []string
	code      string
	finger    string // of the box's certificate authority, to compare with before trusting it
	trial     bool
	sentence  steward.Text
	more      []steward.Text
}

// draw looks at what there is to show.
func (b *box) draw() {
	b.light.set(b.worst())
	p := picture{version: b.system().Version}
	if s, ok := b.screenOfServer(); ok {
		p.name, p.url, p.code, p.finger, p.sentence, p.more = s.ServerName, s.URL, s.Code, s.Fingerprint, s.Sentence, s.More
	}
	p.addresses = b.addresses()
	b.mu.Lock()
	p.trial = b.trial.Load() && !b.confirmedLocked()
	var own []steward.Text
	for _, t := range b.troubles {
		own = append(own, t.text)
	}
	for _, t := range []steward.Text{b.provision.Error, b.trialFailure()} {
		if !t.Empty() {
			own = append(own, t)
		}
	}
	for _, s := range b.sticks {
		if !s.err.Empty() {
			own = append(own, s.err)
		}
	}
	label, perm := b.provision.Label, b.perm
	b.mu.Unlock()
	p.label = label
	if p.sentence.Empty() && len(own) == 0 && perm {
		p.sentence = steward.Text{De: "Der Nachrichtendienst startet.", En: "The message service is starting."}
	}
	// What init knows itself comes first: the homeserver may say the same in its own words, or be silent for that very reason.
	if len(own) > 0 {
		if !p.sentence.Empty() && !slices.Contains(own, p.sentence) {
			p.more = append([]steward.Text{p.sentence}, p.more...)
		}
		p.sentence = own[0]
		p.more = append(own[1:], p.more...)
	}
	b.screen.show(p)
}

// addresses lists where the box can be reached: as the network service says, or, while that is silent, as the kernel does.
func (b *box) addresses() []string {
	if raw, err := readOfOthers(filepath.Join(b.at.Run, lan.StateFile), 256<<10); err == nil {
		if out := lanAddresses(raw); len(out) > 0 {
			return out
		}
	}
	all, err := ifaddr.PrivateInterfaceAddrs()
	if err != nil {
		return nil
	}
	return reachable(all)
}

// reachable leaves out what no phone can use: the machine's own loopback, and addresses that hold on one cable only.
func reachable(all []string) []string {
	var out []string
	for _, s := range all {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out[:min(len(out), 6)]
}

func lanAddresses(raw []byte) []string {
	s, err := lan.ParseState(raw)
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range s.Interfaces {
		for _, a := range i.Addresses {
			if a.IsValid() && !a.Addr().IsLinkLocalUnicast() && !slices.Contains(out, host(a)) {
				out = append(out, host(a))
			}
		}
		for _, n := range i.Names {
			if len(n) < 80 && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out[:min(len(out), 6)]
}

func host(p netip.Prefix) string { return p.Addr().WithZone("").String() }

// String draws the picture for 80 columns and 25 lines, with the code that phones scan at the left.
func (p picture) String() string {
	const width, height = 80, 24
	var code []string
	if p.url != "" {
		code = strings.Split(strings.TrimRight(qrtext.Draw(p.url), "\n"), "\n")
	}
	left := 0
	for _, l := range code {
		left = max(left, utf8.RuneCountInString(l))
	}
	room := width - 2
	if left > 0 && left < width-24 {
		room = width - left - 4
	}
	var text []string
	add := func(format string, args ...any) {
		text = append(text, wrap(clean(fmt.Sprintf(format, args...)), room)...)
	}
	head := "Hallig " + p.version
	if p.trial {
		head += " (Probelauf / on trial)"
	}
	add("%s", head)
	switch {
	case p.name == "" || p.name == p.label:
		if p.label != "" {
			add("%s", p.label)
		}
	case p.label == "":
		add("%s", p.name)
	default:
		add("%s (%s)", p.name, p.label)
	}
	text = append(text, "")
	if p.url != "" {
		add("Telefone / phones: %s", p.url)
	}
	if len(p.addresses) > 0 {
		add("%s", strings.Join(p.addresses, ", "))
	} else {
		add("Noch keine Adresse im Netz. / No network address yet.")
	}
	if p.code != "" {
		text = append(text, "")
		add("Erste Verwaltung, einmalig / first administrator, once:")
		add("  %s", p.code)
	}
	for _, t := range append([]steward.Text{p.sentence}, p.more...) {
		if t.Empty() || len(text) > height-4 {
			continue
		}
		text = append(text, "")
		add("%s", t.De)
		add("%s", t.En)
	}
	if p.finger != "" && len(text) <= height-5 {
		text = append(text, "")
		add("Fingerabdruck / fingerprint (SHA-256):")
		const pairs = 11 * len("AB:") // a line
		for rest := p.finger; rest != ""; {
			n := min(pairs, len(rest))
			add("%s", rest[:n])
			rest = rest[n:]
		}
	}
	var b strings.Builder
	if room == width-2 && left > 0 { // no place beside each other
		for _, l := range code {
			b.WriteString(l + "\n")
		}
		code = nil
	}
	for i := range max(len(code), len(text)) {
		l := ""
		if i < len(code) {
			l = code[i]
		}
		if i < len(text) && text[i] != "" {
			l += strings.Repeat(" ", max(0, left-utf8.RuneCountInString(l))+2) + text[i]
			if code == nil {
				l = " " + text[i]
			}
		}
		b.WriteString(strings.TrimRight(l, " ") + "\n")
	}
	return b.String()
}

// clean takes away what would move the cursor: names come from files that others write.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// wrap breaks a line at spaces, and words that are too long anywhere.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	indent := s[:len(s)-len(strings.TrimLeft(s, " "))]
	for _, w := range strings.Fields(s) {
		for utf8.RuneCountInString(w) > width-len(indent) {
			r := []rune(w)
			if line != "" {
				lines, line = append(lines, line), ""
			}
			lines, w = append(lines, string(r[:width])), string(r[width:])
		}
		switch {
		case line == "":
			line = indent + w
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) > width:
			lines, line = append(lines, line), w
		default:
			line += " " + w
		}
	}
	return append(lines, line)
}
