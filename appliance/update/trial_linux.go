// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoTryboot and the like say that this machine has no way to try a system.
var errNoTrial = refuse(
	"Der Kernel dieser Box kann ein anderes System nicht zur Probe starten (kexec fehlt). Spielen Sie das neue Image auf einen neuen Datenträger; die Sicherung nimmt die Daten mit.",
	"This box's kernel cannot start another system on trial (no kexec). Put the new image on a new disk; the backup takes the data along.")

// LoadTrial prepares the trial of a slot: it checks that the slot is whole and has the kernel take the slot's own kernel and command line. On a Raspberry
// Pi the firmware does it, and only the check is done. RebootTrial is next; nothing on the disk is changed.
func LoadTrial(ctx context.Context, d *Disk, s Slot) error {
	if _, err := d.Check(ctx, s); err != nil {
		return fmt.Errorf("load the trial: %w", err)
	}
	if d.HasTryboot() {
		return d.tryboot(s)
	}
	k, err := d.Kernel(s)
	if err != nil {
		return fmt.Errorf("load the trial: %w", err)
	}
	line, err := d.TrialCmdline(s)
	if err != nil {
		return fmt.Errorf("load the trial: %w", err)
	}
	fd, err := unix.MemfdCreate("kernel", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("load the trial: memory for the kernel: %w", err)
	}
	f := os.NewFile(uintptr(fd), "kernel")
	defer f.Close()
	if _, err := io.Copy(f, k); err != nil {
		return fmt.Errorf("load the trial: read the kernel: %w", err)
	}
	const noInitramfs = 4 // KEXEC_FILE_NO_INITRAMFS, <linux/kexec.h>
	switch err := unix.KexecFileLoad(int(f.Fd()), 0, line, noInitramfs); {
	case errors.Is(err, unix.ENOSYS):
		return errNoTrial
	case err != nil:
		return fmt.Errorf("load the trial: kexec_file_load: %w", err)
	}
	return nil
}

// TrialCmdline is the command line of a slot on trial.
func (d *Disk) TrialCmdline(s Slot) (string, error) {
	line, err := d.Cmdline(s)
	if err != nil {
		return "", err
	}
	if got, _ := RunningSlot(line); got != s {
		return "", fmt.Errorf("the command line of slot %s does not name its root: %.200q", s, line)
	}
	return strings.TrimSpace(line) + " " + TrialWord, nil
}

// OnTrial says whether the running system is on trial: word is what the kernel's command line says (RunningSlot). On a Raspberry Pi both slots have
// their own command line only, and it is the slot that the firmware does not boot by itself that is on trial.
func (d *Disk) OnTrial(running Slot, word bool) bool {
	if word || !d.HasTryboot() {
		return word
	}
	s, err := d.Boots()
	return err == nil && s != NoSlot && s != running
}

// HasTryboot says whether a Raspberry Pi's firmware tries slots on this disk.
func (d *Disk) HasTryboot() bool {
	_, _, err := d.oneSector(TrybootTxt)
	return err == nil
}

// RebootTrial boots what LoadTrial has prepared. It returns only when it fails. All file systems must be synced and processes be stopped before.
func RebootTrial(d *Disk) error {
	if !d.HasTryboot() {
		return fmt.Errorf("boot the trial: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC))
	}
	// x/sys has no reboot with an argument: LINUX_REBOOT_CMD_RESTART2 hands its text to the firmware's driver
	return fmt.Errorf("boot the trial: %w", restart2("0 tryboot"))
}
