// SPDX-License-Identifier: EUPL-1.2

// Command probe waits in two ways and says how long that took, by its own clock and by the machine's.
package main

import (
	"encoding/json"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := probe(); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func probe() error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer l.Close()
	var out struct {
		Slept, Waited, Machine time.Duration
		Now                    time.Time
	}
	machine, err := machineTime()
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(50 * time.Millisecond)
	out.Slept = time.Since(begin)
	begin = time.Now()
	if err := l.SetDeadline(begin.Add(50 * time.Millisecond)); err != nil {
		return err
	}
	_, _ = l.Accept() // nobody comes
	out.Waited = time.Since(begin)
	end, err := machineTime()
	out.Machine, out.Now = end-machine, time.Now()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func machineTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano()), err
}
