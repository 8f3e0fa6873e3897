// SPDX-License-Identifier: EUPL-1.2

// Command init is the first process of the image. It alone is root, and it does only what needs root: it mounts, makes /perm at first boot, takes the
// provisioning file, starts the homeserver and the network service with rights of their own, keeps their logs, watches sticks and
// serial ports, tries and keeps updates, shows the screen and the light, and answers the steward's socket (package appliance/steward). It has no network
// door and no shell.
//
// Order of a start: kernel file systems; the disk; the network service (it does not need /perm); /perm; identity of the machine; provisioning;
// the homeserver. What fails is a sentence on the screen and in the state, and the rest comes up. A box whose /perm cannot be mounted shows why, on its
// screen and as a page at port 80.
//
// One goroutine, the main loop, pets the hardware watchdog; it does so only between its rounds, so a machine whose first process hangs is
// restarted by its hardware. A homeserver that hangs is ended and started again; it never makes the machine restart by itself, but for
// one that not even SIGKILL ends.
//
// gokrazy.Boot is not used: it pets the watchdog whatever happens, switches the machine off at the button without stopping our processes, mounts the fourth
// partition itself whatever is on it, and ends (a kernel panic) on disks it does not expect. The image is gokrazy's all the same: its packer, boot loader,
// kernels and layout.
//
// State of its own is in /perm/system (0700): machine-id, random-seed, provision.json (what is in force), provision-origin.json (where that came from),
// seen.json (files that were looked at already), name.json (the server name as last reported), update.json (the trial record), radio (which port /dev/hallig/radio is). With all of that
// lost, the box is the same box: its keys are the homeserver's.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// version is set by the linker; the slot on the disk knows more.
var version = "dev"

func main() {
	if len(os.Args) == 3 && os.Args[1] == "page" {
		if err := sentencePage(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "init page:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init is the first process of the image and does nothing anywhere else.")
		os.Exit(2)
	}
	// The main goroutine keeps the main thread: threads that gave up rights to start a program end, and the main thread cannot.
	runtime.LockOSThread()
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(24 << 20)
	b := newBox(places{Perm: "/perm", Run: "/run/hallig", Sys: "/sys", Dev: "/dev", Proc: "/proc", Etc: "/etc"})
	b.boot()
	b.loop()
}
