// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// wires notes what is done to a port, in order.
type wires struct {
	Stream
	did             []string
	driver, noRTS   bool
	failWrite, fail error
}

func (w *wires) SetRS485() error {
	w.did = append(w.did, "rs485")
	if w.driver {
		return nil
	}
	return unix.ENOTTY
}

func (w *wires) SetRTS(on bool) error {
	if w.noRTS {
		return unix.EINVAL
	}
	w.did = append(w.did, fmt.Sprintf("rts %v", on))
	return nil
}

func (w *wires) Drain() error {
	w.did = append(w.did, "drain")
	return w.fail
}

func (w *wires) Write(p []byte) (int, error) {
	w.did = append(w.did, string(p))
	return len(p), w.failWrite
}

func TestBus(t *testing.T) {
	bad := errors.New("bad")
	for _, c := range []struct {
		name  string
		wires wires
		m     Modem
		want  []string
		err   error
	}{
		{"the driver switches", wires{driver: true}, Modem{}, []string{"rs485", "moin"}, nil},
		{"the adapter switches", wires{}, Modem{Adapter: true}, []string{"moin"}, nil},
		{"we switch", wires{}, Modem{}, []string{"rs485", "rts false", "rts true", "moin", "drain", "rts false"}, nil},
		{"the bus is left after a mistake", wires{failWrite: bad}, Modem{}, []string{"rs485", "rts false", "rts true", "moin", "rts false"}, bad},
		{"and when bytes are stuck", wires{fail: bad}, Modem{}, []string{"rs485", "rts false", "rts true", "moin", "drain", "rts false"}, bad},
	} {
		c.m.Kind = RS485
		s, err := openRS485(c.m, &c.wires)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := s.Write([]byte("moin")); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(c.wires.did, c.want) {
			t.Errorf("%s: %q, want %q", c.name, c.wires.did, c.want)
		}
	}
	// A pseudo terminal has neither; the words say what to do.
	far, err := NewPTY()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	var f *Fault
	if _, err := OpenModem(t.Context(), Modem{Kind: RS485, Device: far.Device}); !errors.As(err, &f) || !strings.Contains(f.EN, "rs485_adapter") || !strings.Contains(f.DE, "rs485_adapter") {
		t.Errorf("RS-485 without a direction: %v", err)
	}
	s, err := OpenModem(t.Context(), Modem{Kind: RS485, Device: far.Device, Adapter: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write([]byte("moin")); err != nil {
		t.Error(err)
	}
}
