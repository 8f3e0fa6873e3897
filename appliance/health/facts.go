// SPDX-License-Identifier: EUPL-1.2

package health

import "time"

// Facts is what is known of a box. A nil part is one that this machine does not have, or of which nothing is known.
type Facts struct {
	Up      time.Duration // since the box was started
	Trouble []Sentence    // what the machine cannot help itself with, worst first

	Power        *PowerFacts
	Temperature  *TemperatureFacts
	Memory       *MemoryFacts
	Disk         *DiskFacts
	Database     *Probe
	Homeserver   *Probe
	Processes    []Process
	Provisioning *ProvisioningFacts
	Network      *NetworkFacts
	Clock        *ClockFacts
	Links        *Probe
	Lines        []LineFacts
	Peers        []PeerFacts
	Hub          *HubFacts
	Servers      []ServerFacts
	Certificate  *CertificateFacts
	Update       *UpdateFacts
	Backup       *BackupFacts
	Courier      *CourierFacts
	Setup        *SetupFacts
}

// Probe is a question that was asked: Err is "" when it was answered.
type Probe struct {
	Err  string
	Took time.Duration
}

// PowerFacts are what the machine tells of its supply.
type PowerFacts struct {
	UnderVoltage bool
	Battery      int // percent; below 0: no battery
	OnBattery    bool
}

// TemperatureFacts is the hottest sensor of the machine.
type TemperatureFacts struct {
	Celsius  float64
	Critical float64 // where the machine stops or slows down; 0: not known
}

// MemoryFacts are of the whole machine, in bytes.
type MemoryFacts struct{ Available, Total int64 }

// DiskFacts are of the file system that holds the data, in bytes.
type DiskFacts struct {
	Free, Size, Reserve int64 // below Reserve nothing new is taken
	ReadOnly            bool
}

// Process is one of the programs that the image runs.
type Process struct {
	Name     string
	Restarts int // in the last hour
}

// ProvisioningFacts tell of the file that prepares a box.
type ProvisioningFacts struct {
	InForce bool     // a file was taken, now or at an earlier start, and there is nothing wrong with that one
	From    Sentence // where it came from, behind "hallig.json "; empty: not known
	File    string   // where the one lies that Err speaks of
	Err     Sentence // why it was refused, with its place
}

// NetworkFacts are of the local network.
type NetworkFacts struct {
	Mode       string // guest, host, static, off, or "" when nobody manages it
	Interfaces []Interface
	Uplink     bool     // a router leads elsewhere
	Err        Sentence // what the network part of the box has to say
}

// Interface is one network port.
type Interface struct {
	Name    string
	Up      bool // a cable or a radio network is there
	Address bool // it has one
}

// ClockFacts are those of package clock.
type ClockFacts struct {
	Trusted bool
	Source  string
	Detail  string // what is wrong with the sources that should tell the time
}

// LineFacts are of one serial line.
type LineFacts struct {
	Name    string // "serial:ttyUSB0"
	Device  string
	Open    bool
	Trouble Sentence // why not, when more is known, such as a chip that the kernel does not know
	Err     string   // why not, in the words of the system

	Modem   string // "null", "rnode", ...
	Opening bool   // its modem is being set, or dials, or waits for a call
	Up      bool   // the far end answers
	Met     bool   // it has answered since the box was started

	Since         time.Duration // for how long the line has been open without an answer, or answered, or led to a paired box: whichever it is now
	Boxes         []string      // paired boxes that it leads to
	BitsPerSecond int           //
	Stuck         bool          // the port takes no bytes
	Garbled       bool          // bytes come in, and no frame is among them
	Unlike        bool          // the far end speaks open language and this one does not, or the other way round
	NoBand        bool          // a radio of which nobody has said what its medium allows
	AirWait       time.Duration // until the band's duty cycle lets the next frame go

	Signal bool    // the modem has said how well it hears the far end:
	RSSI   int     // dBm
	SNR    float64 // dB
	Sent   int     // frames in the last minutes
	Again  int     // repetitions among them
}

// PeerFacts are of one paired box.
type PeerFacts struct {
	Server  string
	InReach bool
	Away    time.Duration // for how long it has not been in reach
	Queued  int
	// Withheld names the rooms of which something waits because the only way is amateur radio; WithheldKeys: messages between devices do.
	Withheld     []string
	WithheldKeys bool
	Twin         bool     // two boxes speak under its name
	Network      bool     // it can be reached over the network
	Lines        []string // names of lines that may lead to it
}

// HubFacts are of the box's hub.
type HubFacts struct {
	Name    string
	Paired  bool
	Away    time.Duration // 0: in reach
	Through string        // the box through which alone it is in reach; "": it is itself, or not at all
	Err     string        // why it did not take what the box said of itself
	Mode    string        // why it does not serve the box in the mode that the box wants
}

// ServerFacts are of a server that is no box.
type ServerFacts struct {
	Name   string
	Away   time.Duration // 0: in reach
	Queued int
	Err    string
}

// CertificateFacts are of the certificate that browsers see.
type CertificateFacts struct {
	Left   time.Duration // until it ends; negative: since it ended
	Public bool          // browsers know who signed it
	Err    string        // the last try to renew it
}

// UpdateFacts tell of the update under way.
type UpdateFacts struct {
	State   UpdateState
	Version string
	Err     Sentence
}

// UpdateState is where an update stands.
type UpdateState string

// Update states.
const (
	UpdateNone   UpdateState = ""
	UpdateTaking UpdateState = "taking" // being written
	UpdateReady  UpdateState = "ready"  // written, not started
	UpdateTrial  UpdateState = "trial"  // running on trial
	UpdateFailed UpdateState = "failed" // refused, or gone back from
)

// CourierFacts tell of the stick that carries messages between boxes; nil: none was plugged in of late.
type CourierFacts struct {
	Stick   string
	Working bool     // it must not be pulled now
	Done    Sentence // what was done
	Pull    bool     // it can be pulled
	Err     Sentence // why it was not done; what to do
	Detail  string
}

// BackupFacts tell of the last backup.
type BackupFacts struct {
	Wanted   bool          // somebody has set it up
	Age      time.Duration // of the last good one; 0: there is none yet
	Every    time.Duration
	ToStick  bool     // it goes to a stick
	Starting bool     // one is due, and there is a place for it
	Restored bool     // the box itself came from a backup, not long ago
	Err      Sentence // of the last try, when it failed
	Detail   string
}

// SetupFacts tell whether somebody looks after the box.
type SetupFacts struct{ Admin bool }
