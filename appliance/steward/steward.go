// SPDX-License-Identifier: EUPL-1.2

// Package steward is the language in which the rest of a box asks its first process for what only root may do: updates,
// reboot, factory reset, the clock, USB sticks, the light on the case. It holds the types, the client and the strict decoding of both; the server is
// cmd/init, which alone acts.
//
// The language is HTTP with JSON over the unix socket /run/hallig/steward.sock. Who may speak is decided by the kernel: the socket's group, and the
// user id of the peer.
//
//	GET  /state                    State
//	POST /update                   body: an update file, verified while it is written to the other slot; 202 when it is complete, then see State.Update
//	POST /update?path=FILE         the same from a file on a mounted stick (State.Sticks[].Updates names them)
//	POST /update/start             boots the written update on trial
//	GET  /update/file              the update file of the running system, for other boxes
//	POST /update/back              goes back to the slot before, with the copy of the database from before the migration
//	POST /reboot, /poweroff        202; processes are stopped with SIGTERM and file systems are flushed first
//	POST /factory-reset            {"confirm":"SERVER NAME"}: everything on /perm is erased, the box starts as a new one
//	PUT  /clock                    {"time":RFC3339}: the system's clock, and the hardware clock where there is one
//	PUT  /led                      {"state":"ok|look|trouble"}
//	PUT  /stick/NAME/write         the stick can be written to, until nobody has used it for a minute; sticks are read-only otherwise
//	POST /stick/NAME/eject         the stick can be pulled out
//	GET  /log?process=NAME         the kept lines of one process, oldest first, as text; without process: the names, one a line
//
// Errors have a status of 400 and above and the body {"error":{"de","en"}}.
package steward

import "time"

// Socket is where the steward listens on the image.
const Socket = "/run/hallig/steward.sock"

// Text is a sentence for people, in German and English. Its zero value says nothing.
type Text struct {
	De string `json:"de"`
	En string `json:"en"`
}

// Empty says whether there is nothing to say.
func (t Text) Empty() bool { return t == Text{} }

// Error makes a Text an error whose message is English; the page takes the language it needs.
func (t Text) Error() string { return t.En }

// State is all that the steward knows of the machine.
type State struct {
	Version string `json:"version"` // of the image, as people read it
	Release int64  `json:"release"` // grows with every released image; 0: a development image
	Slot    string `json:"slot"`    // "a" or "b": the root that runs; "": not started from a slot
	Trial   bool   `json:"trial"`   // this boot tries an update that is not confirmed yet

	// Trouble is what the box cannot help itself with, worst first: for example that /perm cannot be mounted.
	Trouble []Text `json:"trouble,omitempty"`

	Machine   Machine   `json:"machine"`
	Update    Update    `json:"update"`
	Sticks    []Stick   `json:"sticks"`
	Serial    []Port    `json:"serial"`
	Provision Provision `json:"provision"`
	Disk      Disk      `json:"disk"`
	Processes []Process `json:"processes"`
	Clock     Clock     `json:"clock"`
}

// Machine is what the image runs on.
type Machine struct {
	Board    string  `json:"board"`    // "amd64", "arm64", "rpi"
	Model    string  `json:"model"`    // as the firmware names it
	Kernel   string  `json:"kernel"`   // release
	Firmware string  `json:"firmware"` // "bios", "uefi", "raspberrypi"
	ID       string  `json:"id"`       // machine id, made at first boot
	Uptime   float64 `json:"uptime"`   // seconds
	Memory   int64   `json:"memory"`   // bytes
	Free     int64   `json:"free"`     // bytes available to programs
	Watchdog string  `json:"watchdog"` // the hardware watchdog in use; "": there is none
	WiFi     bool    `json:"wifi"`     // a Wi-Fi device with a driver is there
}

// The states of an update.
const (
	UpdateNone    = "none"    // nothing is under way
	UpdateWriting = "writing" // a file is being verified and written
	UpdateWritten = "written" // complete in the other slot; POST /update/start boots it
	UpdateTrial   = "trial"   // this boot tries it
	UpdateDone    = "done"    // the last trial was confirmed
	UpdateFailed  = "failed"  // the last file was refused, or its trial failed and the box went back by itself
)

// Update is where the box is between two releases.
type Update struct {
	State    string    `json:"state"`
	Version  string    `json:"version,omitempty"`  // of the update that State speaks of
	Release  int64     `json:"release,omitempty"`  // of the same
	Error    Text      `json:"error,omitzero"`     // why it was refused or went back
	Progress float64   `json:"progress"`           // of writing, 0 to 1; 1 with UpdateFailed: it is whole in the other slot, and POST /update/start tries it again
	Deadline time.Time `json:"deadline,omitzero"`  // of a trial
	Back     string    `json:"back,omitempty"`     // the version that POST /update/back leads to; "": there is none
	BackSays Text      `json:"back_says,omitzero"` // what going back costs, or why there is no way back; to be shown before somebody asks for it
}

// Stick is a USB stick or card with a file system that the kernel can read.
type Stick struct {
	Name    string   `json:"name"`              // for /stick/NAME/eject
	Label   string   `json:"label,omitempty"`   // of the file system
	Path    string   `json:"path,omitempty"`    // where it is mounted; "": it is not
	FS      string   `json:"fs,omitempty"`      // "vfat", "exfat"
	Size    int64    `json:"size"`              // bytes
	Free    int64    `json:"free"`              // bytes
	Updates []Bundle `json:"updates,omitempty"` // update files on it
	Marks   []string `json:"marks,omitempty"`   // names of the files that the steward acted on
	Error   Text     `json:"error,omitzero"`    // why it cannot be used, or what on it was refused
}

// Bundle is an update file on a stick.
type Bundle struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"`
	Release int64  `json:"release,omitempty"`
	Newer   bool   `json:"newer"`          // than what runs, and for this board
	Error   Text   `json:"error,omitzero"` // why it cannot be installed
}

// Port is a serial port, or a USB device that would be one if the kernel had its driver.
type Port struct {
	Name   string `json:"name"`             // stable; "" without a driver
	Device string `json:"device"`           // /dev/hallig/NAME; "" without a driver
	TTY    string `json:"tty,omitempty"`    // the kernel's own name today, for example ttyUSB0
	Chip   string `json:"chip"`             // for people: "FTDI FT232R", "Silicon Labs CP210x"; "UART" for the board's own
	Driver string `json:"driver,omitempty"` // of the kernel; "": it has none for this chip
	USB    string `json:"usb,omitempty"`    // vendor:product, for example 0403:6001
	Serial string `json:"serial,omitempty"` // the device's own serial number
	Known  bool   `json:"known"`            // the chip is in the table of those that radios come with
	Socket string `json:"socket,omitempty"` // where it is plugged in, for example port1-1.2
	Note   Text   `json:"note,omitzero"`    // what to do about a device that does not work
}

// Provision is what became of the provisioning file.
type Provision struct {
	File       string `json:"file,omitempty"`        // where the one that Error speaks of lies, or else where the one in force lay: "Stick NAME", "HALLIG"
	Accepted   bool   `json:"accepted"`              // one is in force
	From       Text   `json:"from,omitzero"`         // where the one in force came from, behind "hallig.json ": "vom Stick NAME", "from stick NAME"; empty: not known
	Label      string `json:"label,omitempty"`       // of the one in force
	ServerName string `json:"server_name,omitempty"` // of the one in force
	Error      Text   `json:"error,omitzero"`        // why one that still lies there was refused; begins with which and where: "hallig.json auf dem Stick NAME: "
}

// Disk is the disk that the box runs from.
type Disk struct {
	Name     string `json:"name"` // for example sda, mmcblk0
	Model    string `json:"model,omitempty"`
	Size     int64  `json:"size"`      // bytes of the whole disk
	PermSize int64  `json:"perm_size"` // bytes of /perm
	PermFree int64  `json:"perm_free"`
	Mounted  bool   `json:"mounted"` // /perm is there and writable
	Error    Text   `json:"error,omitzero"`
}

// Process is one program that the steward keeps running.
type Process struct {
	Name     string  `json:"name"`
	PID      int     `json:"pid,omitempty"`  // 0: it does not run now
	RSS      int64   `json:"rss"`            // bytes
	Restarts int     `json:"restarts"`       // since boot
	Uptime   float64 `json:"uptime"`         // seconds since its last start
	Last     string  `json:"last,omitempty"` // how it ended the last time
}

// Clock is the hardware's.
type Clock struct {
	RTC bool `json:"rtc"` // there is a clock that runs without power
}

// The states of the light on the case.
const (
	LEDOK      = "ok"      // steady
	LEDLook    = "look"    // slow blinking: somebody should look at the page
	LEDTrouble = "trouble" // fast blinking
)
