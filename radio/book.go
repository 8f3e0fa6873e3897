// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"hallig/radio/airtime"
)

// The book of air time outlives the process: it is read when the port begins to be served, and kept before air time is used (airtime.Budget).
// Beside it lies a mark that there has been one, an empty file. A port with neither is new and has never sent; a book that is gone, or cannot be
// read, counts as an hour used up.

// moment is now, by a clock that nobody sets.
func moment() (airtime.Moment, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return airtime.Moment{}, fmt.Errorf("read which boot this is: %w", err)
	}
	raw, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return airtime.Moment{}, fmt.Errorf("read time since boot: %w", err)
	}
	first, _, _ := strings.Cut(string(raw), " ")
	since, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return airtime.Moment{}, fmt.Errorf("read time since boot: %w", err)
	}
	return airtime.Moment{Boot: strings.TrimSpace(string(boot)), Since: time.Duration(since * float64(time.Second))}, nil
}

// errNoBook is a book that somebody has taken away.
var errNoBook = errors.New("it was there before and is gone")

// mark is where the mark lies.
func (p *Port) mark() string { return strings.TrimSuffix(p.cfg.AirtimeFile, ".json") + ".used" }

// openBook reads the book.
func (p *Port) openBook() {
	if p.cfg.AirtimeFile == "" || !p.budget.Limited() {
		return
	}
	m, err := moment()
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(p.cfg.AirtimeFile)
	}
	if errors.Is(err, os.ErrNotExist) {
		if _, err = os.Lstat(p.mark()); err == nil {
			err = errNoBook
		} else if errors.Is(err, os.ErrNotExist) {
			raw, err = nil, nil
		}
	}
	if err != nil {
		raw = []byte{} // no book: the worst is taken
	}
	p.mu.Lock()
	restored := p.budget.Restore(time.Now(), m, raw)
	p.mu.Unlock()
	if restored != nil {
		if err == nil {
			err = restored
		}
		p.log.Warn("the record of air time cannot be read: this hour's air time counts as used; messages wait for up to an hour",
			"file", p.cfg.AirtimeFile, "error", err)
	}
}

// lease keeps the book before more air time is used. Only the loop that sends calls it.
func (p *Port) lease() {
	p.mu.Lock()
	due := p.budget.NeedsLease()
	p.mu.Unlock()
	if !due {
		return
	}
	err := p.keepBook(false)
	if err != nil {
		p.log.Warn("the record of air time cannot be kept: after a restart the duty cycle may be exceeded; is the disk full?",
			"file", p.cfg.AirtimeFile, "error", err)
	}
	p.mu.Lock()
	p.budget.Leased(err == nil)
	p.mu.Unlock()
}

// closeBook keeps it for the last time, without a lease.
func (p *Port) closeBook() {
	if p.cfg.AirtimeFile == "" || !p.budget.Limited() {
		return
	}
	if err := p.keepBook(true); err != nil {
		p.log.Warn("the record of air time could not be kept; what was leased counts as used", "file", p.cfg.AirtimeFile, "error", err)
	}
}

func (p *Port) keepBook(over bool) error {
	m, err := moment()
	if err != nil {
		return err
	}
	p.mu.Lock()
	raw := p.budget.State(time.Now(), m, over)
	p.mu.Unlock()
	if _, err := os.Lstat(p.mark()); errors.Is(err, os.ErrNotExist) {
		if err := renameio.WriteFile(p.mark(), nil, 0o600); err != nil {
			return fmt.Errorf("mark that there is a record of air time: %w", err)
		}
	}
	if err := renameio.WriteFile(p.cfg.AirtimeFile, raw, 0o600); err != nil {
		return fmt.Errorf("keep record of air time: %w", err)
	}
	return nil
}
