// SPDX-License-Identifier: EUPL-1.2

// Package logring keeps what programs print to their standard error, in a bounded ring of files, so that the reasons of a failure are still there
// after a restart and never fill the disk.
//
// A Ring writes NAME.N.log (N grows) and removes the oldest file when there are more than it may keep. Each line carries the wall time and the uptime,
// as the wall clock of a box may be wrong: "2026-11-26T15:04:05Z +12.345 text". Control characters are replaced and long lines cut. Programs that
// print without end are throttled, as flash memory wears out; what was left out is counted in a line of its own. Nothing here ever fails its
// writer: while there is no folder, or the disk is full, the newest lines stay in memory.
//
// It keeps lines as they come: programs of ours print no message bodies, keys or tokens.
package logring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxLine   = 2048
	maxMemory = 64 << 10
)

// Limits are the bounds of one ring; the zero value takes the defaults.
type Limits struct {
	FileBytes int64   // of each file; 0: 1 MiB
	Files     int     // 0: 4
	PerSecond float64 // lines in the long run; 0: 10
	Burst     float64 // lines at once; 0: 2000
}

func (l Limits) filled() Limits {
	if l.FileBytes == 0 {
		l.FileBytes = 1 << 20
	}
	if l.Files == 0 {
		l.Files = 4
	}
	if l.PerSecond == 0 {
		l.PerSecond = 10
	}
	if l.Burst == 0 {
		l.Burst = 2000
	}
	return l
}

// Rings are all logs of a machine, one by name. It is safe for concurrent use.
type Rings struct {
	limits Limits
	now    func() time.Time
	uptime func() time.Duration

	mu    sync.Mutex
	dir   string // "": in memory until Attach
	rings map[string]*Ring
}

// New gives rings that live in memory until Attach.
func New(limits Limits, now func() time.Time, uptime func() time.Duration) *Rings {
	return &Rings{limits: limits.filled(), now: now, uptime: uptime, rings: make(map[string]*Ring)}
}

// Ring gives the log of that name; a name is letters, digits and dashes.
func (r *Rings) Ring(name string) *Ring {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.rings[name]
	if g == nil {
		g = &Ring{all: r, name: name, dir: r.dir, tokens: r.limits.Burst, refilled: r.uptime()}
		r.rings[name] = g
	}
	return g
}

// Attach gives the rings their folder, which must exist, and writes down what was kept in memory so far.
func (r *Rings) Attach(dir string) {
	r.mu.Lock()
	r.dir = dir
	rings := make([]*Ring, 0, len(r.rings))
	for _, g := range r.rings {
		rings = append(rings, g)
	}
	r.mu.Unlock()
	for _, g := range rings {
		g.mu.Lock()
		g.dir = dir
		g.flush()
		g.mu.Unlock()
	}
}

// Detach closes all files, so that the file system can be unmounted; later lines stay in memory.
func (r *Rings) Detach() {
	r.mu.Lock()
	r.dir = ""
	rings := make([]*Ring, 0, len(r.rings))
	for _, g := range r.rings {
		rings = append(rings, g)
	}
	r.mu.Unlock()
	for _, g := range rings {
		g.mu.Lock()
		g.close()
		g.dir = ""
		g.mu.Unlock()
	}
}

// Names lists the logs that there are, kept from earlier starts or not.
func (r *Rings) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for n := range r.rings {
		names = append(names, n)
	}
	if r.dir != "" {
		if list, err := os.ReadDir(r.dir); err == nil {
			for _, e := range list {
				if name, _, ok := parse(e.Name()); ok {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Copy writes the kept lines of one log to w, oldest first. Unknown names are fs.ErrNotExist.
func (r *Rings) Copy(w io.Writer, name string) error {
	if !slices.Contains(r.Names(), name) {
		return fmt.Errorf("read log %q: %w", name, fs.ErrNotExist)
	}
	g := r.Ring(name)
	g.mu.Lock()
	files, memory := g.files(), bytes.Clone(g.memory.Bytes())
	dir := g.dir
	g.mu.Unlock()
	for _, n := range files {
		f, err := os.Open(filepath.Join(dir, fileName(name, n)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", name, err)
		}
		_, err = io.Copy(w, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("read log %s: %w", name, err)
		}
	}
	_, err := w.Write(memory)
	return err
}

// Ring is one log: an io.Writer that never fails and takes text in pieces of any size.
type Ring struct {
	all  *Rings
	name string

	mu       sync.Mutex
	dir      string
	file     *os.File
	number   int
	size     int64
	rest     []byte // an unfinished line
	memory   bytes.Buffer
	tokens   float64
	refilled time.Duration
	left     int // lines left out
}

// Write takes text; whole lines go to the ring at once.
func (g *Ring) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range p {
		if c == '\n' {
			g.line(g.rest)
			g.rest = g.rest[:0]
			continue
		}
		if len(g.rest) < maxLine {
			g.rest = append(g.rest, c)
		} else if len(g.rest) == maxLine {
			g.rest = append(g.rest, " [...]"...)
		}
	}
	return len(p), nil
}

// Printf writes one line.
func (g *Ring) Printf(format string, args ...any) {
	fmt.Fprintf(g, format+"\n", args...)
}

// line keeps one line, or counts it as left out.
func (g *Ring) line(text []byte) {
	up := g.all.uptime()
	l := g.all.limits
	g.tokens = min(l.Burst, g.tokens+(up-g.refilled).Seconds()*l.PerSecond)
	g.refilled = up
	if g.tokens < 1 {
		g.left++
		return
	}
	g.tokens--
	if g.left > 0 {
		n := g.left
		g.left = 0
		g.put(up, []byte(fmt.Sprintf("[%d lines left out: more than %g per second]", n, l.PerSecond)))
	}
	g.put(up, text)
}

func (g *Ring) put(up time.Duration, text []byte) {
	fmt.Fprintf(&g.memory, "%s +%.3f %s\n", g.all.now().UTC().Format(time.RFC3339), up.Seconds(), printable(text))
	g.flush()
	for g.memory.Len() > maxMemory {
		if _, err := g.memory.ReadBytes('\n'); err != nil {
			break
		}
	}
}

// printable replaces what could move a terminal's cursor.
func printable(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '.'
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}

// flush writes the memory to the file; whatever cannot be written stays in memory.
func (g *Ring) flush() {
	if g.dir == "" || g.memory.Len() == 0 {
		return
	}
	if g.file == nil {
		if err := g.open(); err != nil {
			return
		}
	}
	n, err := g.file.Write(g.memory.Bytes())
	g.size += int64(n)
	g.memory.Next(n)
	if err != nil {
		g.close() // a full disk, most of the time: the next line tries again, with a new file
		return
	}
	if g.size >= g.all.limits.FileBytes {
		g.close()
		g.number++
	}
}

// open goes on with the newest file, or begins the next one, and removes the oldest.
func (g *Ring) open() error {
	files := g.files()
	if len(files) > 0 && g.number <= files[len(files)-1] {
		g.number = files[len(files)-1]
	}
	name := filepath.Join(g.dir, fileName(g.name, g.number))
	if st, err := os.Stat(name); err == nil && st.Size() >= g.all.limits.FileBytes {
		g.number++
		name = filepath.Join(g.dir, fileName(g.name, g.number))
	}
	for len(files) > 0 && (len(files) > g.all.limits.Files || len(files) == g.all.limits.Files && files[len(files)-1] != g.number) {
		if err := os.Remove(filepath.Join(g.dir, fileName(g.name, files[0]))); err != nil {
			return err
		}
		files = files[1:]
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	g.file, g.size = f, st.Size()
	last := make([]byte, 1)
	if g.size > 0 {
		if _, err := f.ReadAt(last, g.size-1); err == nil && last[0] != '\n' {
			f.Write([]byte(" [cut off]\n")) // the power went away in the middle of a line
			g.size += int64(len(" [cut off]\n"))
		}
	}
	return nil
}

func (g *Ring) close() {
	if g.file != nil {
		g.file.Close()
		g.file = nil
	}
}

// files lists the numbers of this ring's files, oldest first.
func (g *Ring) files() []int {
	if g.dir == "" {
		return nil
	}
	list, err := os.ReadDir(g.dir)
	if err != nil {
		return nil
	}
	var files []int
	for _, e := range list {
		if name, n, ok := parse(e.Name()); ok && name == g.name {
			files = append(files, n)
		}
	}
	slices.Sort(files)
	return files
}

func fileName(name string, n int) string { return fmt.Sprintf("%s.%d.log", name, n) }

func parse(file string) (name string, n int, ok bool) {
	base, ok := strings.CutSuffix(file, ".log")
	if !ok {
		return "", 0, false
	}
	name, number, ok := strings.Cut(base, ".")
	if !ok || name == "" {
		return "", 0, false
	}
	n, err := strconv.Atoi(number)
	return name, n, err == nil && n >= 0
}
