// SPDX-License-Identifier: EUPL-1.2

package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console is what the machine has written to its serial console since power on.
type Console struct {
	mu    sync.Mutex
	text  []byte        // guarded by mu
	fresh chan struct{} // guarded by mu; closed and replaced when text grows

	stop, done chan struct{}
	once       sync.Once
}

// watch follows the file until gone is closed and the file is read to its end.
func watch(path string, gone <-chan struct{}) *Console {
	c := &Console{fresh: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{})}
	go c.follow(path, gone) // close waits for it
	return c
}

func (c *Console) follow(path string, gone <-chan struct{}) {
	defer close(c.done)
	f, err := os.Open(path)
	if err != nil {
		c.add([]byte("console not readable: " + err.Error()))
		return
	}
	defer f.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 64<<10)
	for {
		last := false
		select {
		case <-gone:
			last = true
		case <-c.stop:
			last = true
		case <-tick.C:
		}
		for {
			n, err := f.Read(buf)
			c.add(buf[:n])
			if err == io.EOF || err != nil {
				break
			}
		}
		if last {
			return
		}
	}
}

func (c *Console) add(b []byte) {
	if len(b) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, b...)
	close(c.fresh)
	c.fresh = make(chan struct{})
}

func (c *Console) close() {
	c.once.Do(func() { close(c.stop) })
	<-c.done
}

// Text is all of it, without escape sequences, carriage returns and drawn codes.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return clean(c.text)
}

var escapes = regexp.MustCompile("\x1b(\\[[0-9;?=]*[A-Za-z]|[()][0-9A-B]|[=>c78])")

// clean takes away what only a terminal wants to see, and the pictures that only phones read.
func clean(b []byte) string {
	return pictures.Replace(string(escapes.ReplaceAll(b, nil)))
}

var pictures = strings.NewReplacer("\r", "", "█", "", "▀", "", "▄", "")

// Tail is the last n lines on one line, for error messages.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(c.Text()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

// Wait waits until the expression is found in the text and returns its groups.
func (c *Console) Wait(ctx context.Context, expr string) ([]string, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		fresh, text := c.fresh, clean(c.text)
		c.mu.Unlock()
		if g := re.FindStringSubmatch(text); g != nil {
			return g, nil
		}
		select {
		case <-fresh:
		case <-c.done:
			c.mu.Lock()
			text = clean(c.text)
			c.mu.Unlock()
			if g := re.FindStringSubmatch(text); g != nil {
				return g, nil
			}
			return nil, fmt.Errorf("the console never said %q: %w; it ends: %s", expr, ErrGone, c.Tail(5))
		case <-ctx.Done():
			return nil, fmt.Errorf("the console does not say %q: %w; it ends: %s", expr, ctx.Err(), c.Tail(5))
		}
	}
}

// Count says how often the expression is in the text.
func (c *Console) Count(expr string) int {
	return len(regexp.MustCompile(expr).FindAllString(c.Text(), -1))
}
