// SPDX-License-Identifier: EUPL-1.2

// Package acm drives USB serial devices of the class CDC ACM from user space, through usbfs. Radios with native USB (nRF52840, RP2040,
// ESP32-S3 and their kin) are of this class, and the kernels of the x86 and generic ARM images have no driver for it (CONFIG_USB_ACM is not set);
// where a kernel has one, this package stays away.
//
// Parse finds the function in a device's descriptors: a communications interface for requests and a data interface with one bulk endpoint each
// way (USB Class Definitions for Communication Devices 1.2, PSTN subclass). Open claims both, raises DTR and RTS, and moves bytes by
// asynchronous requests, of which some are always waiting for input, so that none is lost. A stream is all that it gives: cmd/hallig-acm
// joins it to a pseudo terminal, and for the rest of the box that is a serial port like any other.
package acm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Function is one serial port of a USB device.
type Function struct {
	Vendor, Product uint16
	Configuration   uint8 // value of the configuration it belongs to
	Control         uint8 // interface that takes the requests
	Data            uint8 // interface of the bytes
	In, Out         uint8 // endpoint addresses; In has the high bit
	InSize, OutSize int   // bytes of a packet
	Serial          uint8 // index of the serial number's string; 0: none
}

const (
	descDevice, descConfig, descInterface, descEndpoint, descClass = 1, 2, 4, 5, 0x24

	classComm, classData = 2, 10
	subclassACM          = 2
	classUnion           = 6 // functional descriptor: which data interface belongs to a communications interface
	bulk                 = 2
)

// ErrNotACM says that a device has no function of this class.
var ErrNotACM = errors.New("not a CDC ACM device")

// Parse reads descriptors as sysfs gives them (/sys/bus/usb/devices/X/descriptors): the device's, then those of its configurations. Several functions
// come in the order of their interfaces. Only alternate setting 0 counts.
func Parse(raw []byte) ([]Function, error) {
	var p parser
	for len(raw) > 0 {
		n := int(raw[0])
		if n < 2 || n > len(raw) {
			return nil, fmt.Errorf("USB descriptors: length %d with %d bytes left", n, len(raw))
		}
		p.take(raw[:n])
		raw = raw[n:]
	}
	p.finish()
	if len(p.found) == 0 {
		return nil, ErrNotACM
	}
	return p.found, nil
}

// comm is a communications interface that waits for its data interface.
type comm struct {
	number, data uint8
	union        bool
}

type endpoints struct {
	in, out         uint8
	inSize, outSize int
}

type parser struct {
	device, config struct {
		vendor, product uint16
		serial, value   uint8
	}
	comms []comm
	data  map[uint8]endpoints
	now   struct {
		class  byte
		number uint8
		alt    uint8
	}
	found []Function
}

func (p *parser) take(d []byte) {
	switch {
	case d[1] == descDevice && len(d) >= 18:
		p.device.vendor, p.device.product = binary.LittleEndian.Uint16(d[8:]), binary.LittleEndian.Uint16(d[10:])
		p.device.serial = d[16]
	case d[1] == descConfig && len(d) >= 9:
		p.finish()
		p.config.value = d[5]
		p.now.class = 0
	case d[1] == descInterface && len(d) >= 9:
		p.now.class, p.now.number, p.now.alt = d[5], d[2], d[3]
		if d[5] == classComm && d[6] == subclassACM && d[3] == 0 {
			p.comms = append(p.comms, comm{number: d[2]})
		} else if d[5] == classComm {
			p.now.class = 0 // Ethernet and others
		}
	case d[1] == descClass && len(d) >= 5 && d[2] == classUnion && p.now.class == classComm && p.now.alt == 0:
		c := &p.comms[len(p.comms)-1]
		c.data, c.union = d[4], true
	case d[1] == descEndpoint && len(d) >= 7 && p.now.class == classData && p.now.alt == 0 && d[3]&3 == bulk:
		if p.data == nil {
			p.data = map[uint8]endpoints{}
		}
		e := p.data[p.now.number]
		size := int(binary.LittleEndian.Uint16(d[4:]) & 0x7ff)
		if d[2]&0x80 != 0 {
			e.in, e.inSize = d[2], size
		} else {
			e.out, e.outSize = d[2], size
		}
		p.data[p.now.number] = e
	}
}

// finish joins what one configuration had.
func (p *parser) finish() {
	for _, c := range p.comms {
		if !c.union {
			c.data = c.number + 1 // where all of them put it that say nothing
		}
		e, ok := p.data[c.data]
		if !ok || e.in == 0 || e.out == 0 || e.inSize == 0 || e.outSize == 0 {
			continue
		}
		p.found = append(p.found, Function{
			Vendor: p.device.vendor, Product: p.device.product, Serial: p.device.serial, Configuration: p.config.value,
			Control: c.number, Data: c.data, In: e.in, Out: e.out, InSize: e.inSize, OutSize: e.outSize,
		})
	}
	p.comms, p.data = nil, nil
}
