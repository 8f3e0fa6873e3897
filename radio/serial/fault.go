// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Fault is what is wrong with a modem, said to the person at the cable: what was tried, and what to check next.
type Fault struct {
	DE, EN string
	Err    error // the cause, where there is one
	call   bool  // the modem does as it should, the call failed
}

func (f *Fault) Error() string {
	if f.Err != nil {
		return f.EN + " (" + f.Err.Error() + ")"
	}
	return f.EN
}

func (f *Fault) Unwrap() error { return f.Err }

func fault(err error, de, en string, args ...any) *Fault {
	return &Fault{DE: fmt.Sprintf(de, args...), EN: fmt.Sprintf(en, args...), Err: err}
}

// portFault tells of a port that cannot be opened.
func portFault(m Modem, err error) error {
	switch {
	case strings.HasPrefix(m.Device, "tcp:"):
		return fault(err, "Das Modem unter %[1]s ist nicht zu erreichen. Läuft das Programm dort, und stimmt der Anschluss?",
			"The modem at %[1]s cannot be reached. Is the program running there, and is the port right?", m.Device)
	case errors.Is(err, fs.ErrNotExist):
		return fault(err, "Der Anschluss %[1]s ist nicht da. Steckt das Kabel, und hat das Gerät Strom? Die Geräteseite zeigt die Namen aller Anschlüsse.",
			"The port %[1]s is not there. Is the cable plugged in, and has the device power? The device page shows the names of all ports.", m.Device)
	case errors.Is(err, fs.ErrPermission):
		return fault(err, "Der Anschluss %[1]s darf nicht geöffnet werden. Auf einem fremden System hilft: sudo usermod -a -G dialout BENUTZER",
			"The port %[1]s may not be opened. On a system of your own this helps: sudo usermod -a -G dialout USER", m.Device)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EBUSY):
		return fault(err, "Den Anschluss %[1]s benutzt schon ein anderes Programm. Bitte dieses beenden.",
			"Another program uses the port %[1]s already. Please end it.", m.Device)
	}
	return err
}

// silent is a modem that does not answer.
func silent(m Modem, err error) error {
	return fault(err, "Das %[2]s-Modem an %[1]s antwortet nicht. Bitte prüfen: hat es Strom, trägt es die richtige Firmware, stimmt die Rate (%[3]d Bit/s), ist es dieser Anschluss?",
		"The %[2]s modem at %[1]s does not answer. Please check: has it power, does it run the right firmware, is the rate right (%[3]d bit/s), is it this port?", m.Device, m.Kind, m.Baud)
}

// unlike is a modem that took another value than it was given.
func unlike(m Modem, field string, want, got int) error {
	return fault(nil, "Das %[2]s-Modem an %[1]s nimmt %[3]s %[4]d nicht an, es meldet %[5]d. Bitte in der Konfiguration einen Wert eintragen, den das Gerät kann.",
		"The %[2]s modem at %[1]s does not take %[3]s %[4]d, it reports %[5]d. Please enter a value in the configuration that the device can do.", m.Device, m.Kind, field, want, got)
}

// restarted is a modem that has lost its settings.
func restarted(m Modem) error {
	return fault(nil, "Das %[2]s-Modem an %[1]s ist neu gestartet und wird neu eingestellt. Kommt das öfter vor: Stromversorgung und USB-Kabel prüfen.",
		"The %[2]s modem at %[1]s has restarted and is being set anew. If this happens often: check its power and the USB cable.", m.Device, m.Kind)
}
