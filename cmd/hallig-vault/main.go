// SPDX-License-Identifier: EUPL-1.2

// Command hallig-vault makes and opens the encrypted partition of a box (package vault). Init starts it before anything else needs the data:
//
//	hallig-vault make --device /dev/vda4 --sticks /run/hallig/sticks --code-file FILE
//	hallig-vault open --device /dev/vda4 --sticks /run/hallig/sticks --listen :80
//
// make writes a new vault, opened by a key file that it puts on a stick and by the code in FILE. open waits until a stick with the key file is
// plugged in, or somebody types the code on the page that it serves meanwhile; then it prints one line of JSON with the device to mount, and
// serves that device until it is told to end (SIGTERM), which it obeys when nothing is mounted any more.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/vault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hallig-vault:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 || args[0] != "make" && args[0] != "open" {
		return errors.New("want make or open; the package comment shows both")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	device := f.String("device", "", "the partition")
	sticks := f.String("sticks", "/run/hallig/sticks", "folder in which sticks are mounted, each under its name")
	codeFile := f.String("code-file", "", "make: file that holds the code")
	listen := f.String("listen", ":80", "open: where the page that takes the code is served; empty: nowhere")
	dir := f.String("dir", "/run/hallig/vault", "open: where the file system behind the device is mounted")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] == "make" {
		return create(*device, *sticks, *codeFile)
	}
	return open(ctx, *device, *sticks, *listen, *dir, out)
}

// create puts the key on every stick that can be written first, and makes the vault then: a cut in between leaves a key file that opens nothing.
func create(device, sticks, codeFile string) error {
	code, err := os.ReadFile(codeFile)
	if err != nil {
		return fmt.Errorf("read the code: %w", err)
	}
	byCode, err := vault.Code(string(code))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open partition: %w", err)
	}
	defer f.Close()
	if h, err := vault.ReadHeader(f); err == nil {
		return fmt.Errorf("%s holds vault %s already; a factory reset takes it away", device, h.ID)
	}
	id := vault.NewID()
	text, byFile := vault.NewKeyFile(id)
	names, err := filepath.Glob(filepath.Join(sticks, "*"))
	if err != nil {
		return err
	}
	keys := []vault.Key{byCode}
	var trouble error
	for _, stick := range names {
		if err := writeKey(filepath.Join(stick, keyName(id)), text); err != nil {
			trouble = err
			continue
		}
		keys = []vault.Key{byFile, byCode}
	}
	if len(keys) == 1 {
		return errors.Join(errors.New("no stick takes the key file; plug in a FAT stick that is not write-protected, and start again"), trouble)
	}
	return vault.Make(f, f.Sync, id, keys...)
}

func keyName(id string) string { return "hallig-key-" + id[:8] + ".txt" }

func writeKey(name, text string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// state is one line of output.
type state struct {
	State  string `json:"state"` // "locked" once, then "open"
	Device string `json:"device,omitempty"`
	Stick  string `json:"stick,omitempty"` // the key file that opened it
}

func open(ctx context.Context, device, sticks, listen, dir string, out io.Writer) error {
	if err := flushFor(); err != nil {
		return err
	}
	header, err := readHeader(device)
	if err != nil {
		return err
	}
	say := json.NewEncoder(out)
	if err := say.Encode(state{State: "locked"}); err != nil {
		return err
	}
	disk, stick, err := unlock(ctx, device, header.ID, sticks, listen)
	if err != nil {
		return err
	}
	// The code's derivation took 64 MiB; they go back before the rest is pinned: a box that must write in order to get memory needs this process.
	runtime.GC()
	debug.FreeOSMemory()
	const onFault = 4 // MCL_ONFAULT
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | onFault); err != nil {
		return fmt.Errorf("keep memory: %w", err)
	}
	v, err := disk.Attach(dir)
	if err != nil {
		return err
	}
	if err := say.Encode(state{State: "open", Device: v.Path, Stick: stick}); err != nil {
		return err
	}
	<-ctx.Done()
	return v.Detach()
}

func readHeader(device string) (vault.Header, error) {
	f, err := os.Open(device)
	if err != nil {
		return vault.Header{}, fmt.Errorf("open partition: %w", err)
	}
	defer f.Close()
	return vault.ReadHeader(f)
}

// flushFor tells the kernel that this process writes what the kernel flushes: its allocations must never wait for such a flush. The flag is a
// thread's own and is kept across exec, so that all threads have it in the second start.
func flushFor() error {
	on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	if errors.Is(err, unix.EPERM) { // not PID 1's child on a box, but somebody's trial in a container
		fmt.Fprintln(os.Stderr, "hallig-vault: no right to the flusher flag (CAP_SYS_RESOURCE): this may stop for ever when memory is short")
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the flusher flag: %w", err)
	}
	if on == 1 {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set the flusher flag: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start again: %w", unix.Exec(self, os.Args, os.Environ()))
}

// unlock waits for a key file on a stick or a code from the page.
func unlock(ctx context.Context, device, id, sticks, listen string) (*vault.Disk, string, error) {
	opened := make(chan *vault.Disk)
	if listen != "" {
		done, err := servePage(ctx, listen, device, opened)
		if err != nil {
			return nil, "", err
		}
		defer done()
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		if disk, stick := tryKeys(device, id, sticks); disk != nil {
			return disk, stick, nil
		}
		select {
		case <-ctx.Done():
			return nil, "", ctx.Err()
		case disk := <-opened:
			return disk, "", nil
		case <-look.C:
		}
	}
}

// tryKeys looks for the vault's key file on the sticks. A file that cannot be read or opens nothing is passed over: the page says that the box waits.
func tryKeys(device, id, sticks string) (*vault.Disk, string) {
	names, err := filepath.Glob(filepath.Join(sticks, "*", "hallig-key-*.txt"))
	if err != nil {
		return nil, ""
	}
	for _, name := range names {
		text, err := readSmall(name)
		if err != nil {
			continue
		}
		of, key, err := vault.ParseKeyFile(text)
		if err != nil || of != id {
			continue
		}
		if disk, err := vault.Open(device, key); err == nil {
			return disk, name
		}
	}
	return nil, ""
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}
