// SPDX-License-Identifier: EUPL-1.2

// Package usbgadget is a USB serial device of class CDC ACM for virtual machines: QEMU plugs it in through its usb-redir device
// (-chardev socket,id=u,path=P,server=on,wait=off -device usb-redir,chardev=u), which speaks the USB network redirection protocol, version 0.7.
// QEMU has no such device of its own. For tests alone.
package usbgadget

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"unicode/utf16"
)

// Packet types of the protocol.
const (
	tHello            = 0
	tConnect          = 1
	tDisconnect       = 2
	tReset            = 3
	tInterfaces       = 4
	tEndpoints        = 5
	tSetConfiguration = 6
	tGetConfiguration = 7
	tConfiguration    = 8
	tSetAlt           = 9
	tGetAlt           = 10
	tAlt              = 11
	tStartInterrupt   = 15
	tStopInterrupt    = 16
	tInterrupt        = 17
	tCancel           = 21
	tControl          = 100
	tBulk             = 101

	capDeviceVersion = 1
	capPacketSize    = 4
	cap64bitIDs      = 5 // QEMU's xHCI wants this one and the next
	cap32bitBulk     = 6

	statusOK, statusCancelled, statusStall = 0, 1, 4

	notifyEP, outEP, inEP = 0x81, 0x02, 0x82
	packetSize            = 64
	bulkHead              = 10 // endpoint, status, length, stream, upper half of the length
)

// Device is a plugged-in serial device. Read gives what the machine sent, Write is what it receives.
type Device struct {
	Vendor, Product uint16
	Serial          string

	conn net.Conn

	mu       sync.Mutex
	changed  sync.Cond
	asked    []ask  // requests for input that wait for bytes
	toHost   []byte // bytes that wait for a request
	fromHost []byte
	rate     int
	lines    int
	err      error
}

type ask struct {
	id     uint64
	length int
}

// Plug connects a device to QEMU's socket. Close unplugs it.
func Plug(conn net.Conn, vendor, product uint16, serial string) (*Device, error) {
	d := &Device{Vendor: vendor, Product: product, Serial: serial, conn: conn}
	d.changed.L = &d.mu
	hello := make([]byte, 68)
	copy(hello, "hallig test device")
	binary.LittleEndian.PutUint32(hello[64:], 1<<capDeviceVersion|1<<capPacketSize|1<<cap64bitIDs|1<<cap32bitBulk)
	if err := d.send(tHello, 0, hello); err != nil {
		return nil, err
	}
	kind, _, _, err := d.receive(4)
	if err != nil || kind != tHello {
		return nil, fmt.Errorf("usb redirection: packet %d in place of a hello: %w", kind, err)
	}
	if err := d.announce(); err != nil {
		return nil, err
	}
	go d.serve() // ends with the connection
	return d, nil
}

func (d *Device) announce() error {
	interfaces := make([]byte, 4+4*32)
	binary.LittleEndian.PutUint32(interfaces, 2)
	for i, f := range [2][4]byte{{0, 2, 2, 0}, {1, 10, 0, 0}} { // number, class, subclass, protocol
		for field, v := range f {
			interfaces[4+32*field+i] = v
		}
	}
	endpoints := make([]byte, 32*3+32*2)
	for i := range 32 {
		endpoints[i] = 255
	}
	index := func(ep byte) int { return int(ep&0x80)>>3 | int(ep&0x0f) }
	for _, e := range []struct{ ep, kind, iface byte }{{0, 0, 0}, {0x80, 0, 0}, {notifyEP, 3, 0}, {outEP, 2, 1}, {inEP, 2, 1}} {
		i := index(e.ep)
		endpoints[i], endpoints[32+i], endpoints[64+i] = e.kind, 16, e.iface
		binary.LittleEndian.PutUint16(endpoints[96+2*i:], packetSize)
	}
	connect := []byte{1 /* full speed */, 2, 0, 0, byte(d.Vendor), byte(d.Vendor >> 8), byte(d.Product), byte(d.Product >> 8), 0, 1}
	return errors.Join(d.send(tInterfaces, 0, interfaces), d.send(tEndpoints, 0, endpoints), d.send(tConnect, 0, connect))
}

func (d *Device) send(kind uint32, id uint64, body []byte) error {
	b := make([]byte, 8, 16+len(body))
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(body)))
	if kind == tHello { // before anybody knows what the other can
		b = append(b, 0, 0, 0, 0)
	} else {
		b = binary.LittleEndian.AppendUint64(b, id)
	}
	_, err := d.conn.Write(append(b, body...))
	return err
}

func (d *Device) receive(idSize int) (kind uint32, id uint64, body []byte, err error) {
	head := make([]byte, 16)
	if _, err = io.ReadFull(d.conn, head[:8+idSize]); err != nil {
		return
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if n > 1<<20 {
		return 0, 0, nil, fmt.Errorf("usb redirection: packet of %d bytes", n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(d.conn, body)
	return binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint64(head[8:]), body, err
}

func (d *Device) serve() {
	var err error
	for err == nil {
		var kind uint32
		var id uint64
		var body []byte
		if kind, id, body, err = d.receive(8); err == nil {
			err = d.handle(kind, id, body)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	d.changed.Broadcast()
}

func (d *Device) handle(kind uint32, id uint64, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case kind == tSetConfiguration, kind == tGetConfiguration:
		return d.send(tConfiguration, id, []byte{statusOK, 1})
	case kind == tSetAlt && len(b) >= 2, kind == tGetAlt && len(b) >= 1:
		return d.send(tAlt, id, []byte{statusOK, b[0], 0})
	case kind == tStartInterrupt && len(b) >= 1, kind == tStopInterrupt && len(b) >= 1:
		return d.send(tInterrupt, id, []byte{statusOK, b[0]})
	case kind == tReset:
		d.toHost, d.asked = nil, nil
	case kind == tCancel:
		for i, a := range d.asked {
			if a.id == id {
				d.asked = append(d.asked[:i], d.asked[i+1:]...)
				return d.sendBulk(id, statusCancelled, nil)
			}
		}
	case kind == tControl && len(b) >= 10:
		return d.control(id, b[:10], b[10:])
	case kind == tBulk && len(b) >= bulkHead && b[0] == outEP:
		d.fromHost = append(d.fromHost, b[bulkHead:]...)
		d.changed.Broadcast()
		answer := append([]byte(nil), b[:bulkHead]...)
		answer[1] = statusOK
		return d.send(tBulk, id, answer)
	case kind == tBulk && len(b) >= bulkHead && b[0] == inEP:
		d.asked = append(d.asked, ask{id, int(binary.LittleEndian.Uint16(b[2:])) | int(binary.LittleEndian.Uint16(b[8:]))<<16})
		return d.answer()
	}
	return nil
}

func (d *Device) sendBulk(id uint64, status byte, data []byte) error {
	h := []byte{inEP, status, byte(len(data)), byte(len(data) >> 8), 0, 0, 0, 0, byte(len(data) >> 16), byte(len(data) >> 24)}
	return d.send(tBulk, id, append(h, data...))
}

// answer gives waiting bytes to waiting requests. Called under mu.
func (d *Device) answer() error {
	for len(d.asked) > 0 && len(d.toHost) > 0 {
		a := d.asked[0]
		n := min(len(d.toHost), a.length)
		if err := d.sendBulk(a.id, statusOK, d.toHost[:n]); err != nil {
			return err
		}
		d.asked, d.toHost = d.asked[1:], d.toHost[n:]
	}
	return nil
}

// control answers on endpoint 0. h: endpoint, request, request type, status, value, index, length.
func (d *Device) control(id uint64, h, data []byte) error {
	request, kind := h[1], h[2]
	value, length := binary.LittleEndian.Uint16(h[4:]), int(binary.LittleEndian.Uint16(h[8:]))
	var reply []byte
	status := byte(statusOK)
	switch {
	case kind == 0x80 && request == 6: // GET_DESCRIPTOR
		if reply = d.descriptor(byte(value>>8), byte(value)); reply == nil {
			status = statusStall
		}
		reply = reply[:min(len(reply), length)]
	case kind == 0x80 && request == 0: // GET_STATUS
		reply = []byte{0, 0}
	case kind == 0x21 && request == 0x20 && len(data) >= 7: // SET_LINE_CODING
		d.rate = int(binary.LittleEndian.Uint32(data))
	case kind == 0x21 && request == 0x22: // SET_CONTROL_LINE_STATE
		d.lines = int(value)
	case kind&0x80 == 0 && request <= 11: // what the machine's own stack sets
	default:
		status = statusStall
	}
	d.changed.Broadcast()
	answer := append([]byte(nil), h...)
	answer[3] = status
	if kind&0x80 != 0 {
		binary.LittleEndian.PutUint16(answer[8:], uint16(len(reply)))
	}
	return d.send(tControl, id, append(answer, reply...))
}

func (d *Device) descriptor(kind, index byte) []byte {
	v, p := d.Vendor, d.Product
	switch kind {
	case 1:
		return []byte{18, 1, 0x00, 0x02, 2, 0, 0, packetSize, byte(v), byte(v >> 8), byte(p), byte(p >> 8), 0, 1, 1, 2, 3, 1}
	case 2:
		c := []byte{9, 2, 0, 0, 2, 1, 0, 0x80, 50,
			9, 4, 0, 0, 1, 2, 2, 0, 0,
			5, 0x24, 0x00, 0x10, 0x01,
			5, 0x24, 0x01, 0, 1,
			4, 0x24, 0x02, 2,
			5, 0x24, 0x06, 0, 1,
			7, 5, notifyEP, 3, 8, 0, 16,
			9, 4, 1, 0, 2, 10, 0, 0, 0,
			7, 5, outEP, 2, packetSize, 0, 0,
			7, 5, inEP, 2, packetSize, 0, 0}
		c[2] = byte(len(c))
		return c
	case 3:
		if index == 0 {
			return []byte{4, 3, 9, 4}
		}
		text := map[byte]string{1: "Hallig", 2: "test radio", 3: d.Serial}[index]
		out := []byte{0, 3}
		for _, u := range utf16.Encode([]rune(text)) {
			out = binary.LittleEndian.AppendUint16(out, u)
		}
		out[0] = byte(len(out))
		return out
	}
	return nil
}

// Read gives bytes that the machine has sent to its serial port.
func (d *Device) Read(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.fromHost) == 0 && d.err == nil {
		d.changed.Wait()
	}
	if len(d.fromHost) == 0 {
		return 0, d.err
	}
	n := copy(b, d.fromHost)
	d.fromHost = d.fromHost[n:]
	return n, nil
}

// Write is what the machine will read from its serial port.
func (d *Device) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return 0, d.err
	}
	d.toHost = append(d.toHost, b...)
	return len(b), d.answer()
}

// Rate is the line rate that the machine has set, bit/s; 0 before.
func (d *Device) Rate() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rate
}

// Close unplugs the device.
func (d *Device) Close() error {
	return errors.Join(d.send(tDisconnect, 0, nil), d.conn.Close())
}
