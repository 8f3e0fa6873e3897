// SPDX-License-Identifier: EUPL-1.2

package testport

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// What one process has taken no other one takes, not even while nobody listens there.
func TestTake(t *testing.T) {
	if addr := os.Getenv("HALLIG_TESTPORT"); addr != "" { // the other process
		_, port, _ := strings.Cut(addr, ":")
		if err := claim("@hallig-testport-" + port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("another process takes it, too: %v", err)
		}
		return
	}
	seen := map[string]bool{}
	for range 200 {
		addr, err := Take()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		seen[addr] = true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	addr, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(os.Args[0], "-test.run", "^TestTake$")
	other.Env = append(os.Environ(), "HALLIG_TESTPORT="+addr)
	if said, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}
