// SPDX-License-Identifier: EUPL-1.2

// Package testport gives tests and measurements addresses on loopback that somebody else is to open: a child process, or a server that is started again. Until the process that
// asked has ended, nobody else gets such an address by chance: the kernel hands ports out from the range in /proc/sys/net/ipv4/ip_local_port_range only, these lie below it, and
// processes that take them here tell each other by names of the same network namespace (unix(7), "abstract"), which go with their process.
package testport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
)

// The range holds no port that a box or a hub listens on unasked, and ends below the kernel's own, which begins at 32768.
const first, count = 15_000, 15_000

// Take gives HOST:PORT of loopback where nobody listens. It is the caller's until its process ends.
func Take() (string, error) {
	for range 1000 {
		port := first + rand.IntN(count)
		switch err := claim(fmt.Sprintf("@hallig-testport-%d", port)); {
		case errors.Is(err, syscall.EADDRINUSE):
			continue
		case err != nil:
			return "", fmt.Errorf("claim port %d: %w", port, err)
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil { // else somebody who does not ask here has it; the claim stays, as nobody else needs to try
			return addr, l.Close()
		}
	}
	return "", errors.New("no port is free on this machine")
}

// claim binds a name until the process ends: it keeps the socket open, and children do not inherit it.
func claim(name string) error {
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Bind(s, &syscall.SockaddrUnix{Name: name}); err != nil {
		return errors.Join(err, syscall.Close(s))
	}
	return nil
}
