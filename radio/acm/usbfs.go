// SPDX-License-Identifier: EUPL-1.2

package acm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and structures of usbfs on 64-bit machines, https://docs.kernel.org/driver-api/usb/usb.html and <linux/usbdevice_fs.h>.
const (
	reqControl         = 0xc0185500
	reqSubmit          = 0x8038550a
	reqDiscard         = 0x0000550b
	reqReapNoWait      = 0x4008550d
	reqClaim           = 0x8004550f
	reqDisconnectClaim = 0x8108551b

	typeBulk = 3
)

type urb struct {
	kind, endpoint byte
	status         int32
	flags          uint32
	buffer         uintptr
	length, actual int32
	startFrame     int32
	packets        int32
	errors         int32
	signal         uint32
	context        uintptr
}

type control struct {
	requestType, request byte
	value, index, length uint16
	timeout              uint32 // ms
	data                 uintptr
}

type disconnectClaim struct {
	iface, flags uint32
	driver       [256]byte
}

// Requests of the class.
const (
	setLineCoding       = 0x20
	setControlLineState = 0x22
	toInterface         = 0x21 // host to device, class, interface
)

const (
	waiting   = 4       // requests for input that are always with the kernel
	inPiece   = 4 << 10 // bytes of one; a multiple of every packet size
	outPiece  = 4 << 10
	stateBits = 3 // DTR and RTS
)

// ErrGone says that the device was unplugged.
var ErrGone = errors.New("USB device is gone")

// Port is a claimed function. Read, Write and Close may be used at the same time; one Read and one Write at a time.
type Port struct {
	f  *os.File
	fd int
	fn Function

	memory []byte // requests and their buffers, which the kernel writes to: they must not move
	urbs   []*urb // the last one is for output
	in     chan piece
	left   []byte // of the piece that Read is at
	held   int    // which request it belongs to; -1: none
	out    chan piece
	wake   [2]*os.File // a pipe that ends the reaper

	writing sync.Mutex
	once    sync.Once
	closed  chan struct{}
	done    chan struct{} // the reaper has ended
	err     error         // why; set before done is closed
}

// piece is a finished request.
type piece struct {
	urb    int
	n      int
	status int32
}

// Open claims the function of the device at node (/dev/bus/usb/BBB/DDD) and sets it to bits bit/s, 8 data bits, no parity.
func Open(node string, fn Function, bits int) (*Port, error) {
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open USB device: %w", err)
	}
	p := &Port{f: f, fd: int(f.Fd()), fn: fn, held: -1, in: make(chan piece, waiting), out: make(chan piece, 1), closed: make(chan struct{}), done: make(chan struct{})}
	if err := p.start(bits); err != nil {
		f.Close()
		return nil, fmt.Errorf("open USB device %04x:%04x: %w", fn.Vendor, fn.Product, err)
	}
	return p, nil
}

func (p *Port) start(bits int) error {
	for _, n := range []uint8{p.fn.Control, p.fn.Data} {
		c := disconnectClaim{iface: uint32(n)} // takes it from any driver of the kernel that only knows part of the device
		if err := p.ioctl(reqDisconnectClaim, unsafe.Pointer(&c)); err != nil {
			return fmt.Errorf("claim interface %d: %w", n, err)
		}
		runtime.KeepAlive(&c)
	}
	if err := p.SetRate(bits); err != nil {
		return err
	}
	if err := p.request(setControlLineState, stateBits, nil); err != nil {
		return fmt.Errorf("raise DTR: %w", err)
	}
	size := int(unsafe.Sizeof(urb{}))
	var err error
	if p.memory, err = unix.Mmap(-1, 0, 4096+waiting*inPiece+outPiece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
		return fmt.Errorf("memory for requests: %w", err)
	}
	for i := range waiting + 1 {
		u := (*urb)(unsafe.Pointer(&p.memory[i*size]))
		u.kind, u.context = typeBulk, uintptr(i)
		u.buffer = uintptr(unsafe.Pointer(&p.memory[4096+i*inPiece]))
		u.endpoint, u.length = p.fn.In, inPiece
		p.urbs = append(p.urbs, u)
	}
	p.urbs[waiting].endpoint = p.fn.Out
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.wake = [2]*os.File{r, w}
	for i := range waiting {
		if err := p.submit(i); err != nil {
			return fmt.Errorf("ask for input: %w", err)
		}
	}
	go p.reap() // Close waits for it
	return nil
}

func (p *Port) ioctl(req uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), req, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (p *Port) request(request byte, value uint16, data []byte) error {
	c := control{requestType: toInterface, request: request, value: value, index: uint16(p.fn.Control), length: uint16(len(data)), timeout: 2000}
	if len(data) > 0 {
		c.data = uintptr(unsafe.Pointer(&data[0]))
	}
	err := p.ioctl(reqControl, unsafe.Pointer(&c))
	runtime.KeepAlive(data)
	return err
}

// SetRate tells the device the line's rate. Many have no line behind them and take any.
func (p *Port) SetRate(bits int) error {
	b := uint32(bits)
	coding := []byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24), 0, 0, 8} // one stop bit, no parity, 8 data bits
	if err := p.request(setLineCoding, 0, coding); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("set %d bit/s: %w", bits, err) // EPIPE: the device has no such request, which is its right
	}
	return nil
}

func (p *Port) submit(i int) error {
	u := p.urbs[i]
	u.status, u.actual = 0, 0
	return p.ioctl(reqSubmit, unsafe.Pointer(u))
}

// reap hands finished requests on until the port is closed or the device is gone.
func (p *Port) reap() {
	defer close(p.done)
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}, {Fd: int32(p.wake[0].Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			p.err = fmt.Errorf("wait for USB: %w", err)
			return
		}
		if fds[1].Revents != 0 {
			p.err = os.ErrClosed
			return
		}
		var at uintptr
		switch err := p.ioctl(reqReapNoWait, unsafe.Pointer(&at)); {
		case errors.Is(err, unix.EAGAIN) && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0, errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			p.err = ErrGone
			return
		}
		for i, u := range p.urbs {
			if uintptr(unsafe.Pointer(u)) == at && !p.finished(i, piece{i, int(u.actual), u.status}) {
				return
			}
		}
	}
}

func (p *Port) finished(i int, done piece) bool {
	switch errno := unix.Errno(-done.status); errno {
	case 0, unix.EREMOTEIO:
	case unix.ENODEV, unix.ESHUTDOWN, unix.ENOENT, unix.ECONNRESET:
		p.err = ErrGone
		return false
	case unix.EPIPE, unix.EOVERFLOW, unix.EPROTO, unix.EILSEQ, unix.ETIME:
		if i == waiting {
			break // told to Write
		}
		// What was lost on the cable is the link's business; asking goes on, unless the device is gone.
		if err := p.submit(i); err != nil {
			p.err = ErrGone
			return false
		}
		return true
	default:
		p.err = fmt.Errorf("USB transfer: %w", errno)
		return false
	}
	if i == waiting {
		p.out <- done // Write waits for it
	} else {
		p.in <- done // has room for all of them
	}
	return true
}

func (p *Port) buffer(i int) []byte { return p.memory[4096+i*inPiece:][:inPiece] }

// Read gives what has come, in the order in which it came. It blocks until there is something; after Close or the plug it fails.
func (p *Port) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		if p.held >= 0 {
			if err := p.submit(p.held); err != nil {
				p.held = -1
				return 0, ErrGone
			}
			p.held = -1
		}
		select {
		case d := <-p.in:
			p.held, p.left = d.urb, p.buffer(d.urb)[:d.n]
		case <-p.closed:
			return 0, os.ErrClosed
		case <-p.done:
			select {
			case d := <-p.in: // what came before the end
				p.held, p.left = d.urb, p.buffer(d.urb)[:d.n]
			default:
				return 0, p.err
			}
		}
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

// Write blocks until the device has taken all of b.
func (p *Port) Write(b []byte) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	var sent int
	for sent < len(b) {
		select {
		case <-p.closed:
			return sent, os.ErrClosed
		default:
		}
		n := copy(p.buffer(waiting)[:outPiece], b[sent:])
		p.urbs[waiting].length = int32(n)
		if err := p.submit(waiting); err != nil {
			return sent, ErrGone
		}
		select {
		case d := <-p.out:
			sent += d.n
			if d.status != 0 {
				return sent, fmt.Errorf("USB transfer: %w", unix.Errno(-d.status))
			}
			if d.n == 0 {
				return sent, io.ErrShortWrite
			}
		case <-p.closed:
			return sent, os.ErrClosed
		case <-p.done:
			return sent, p.err
		}
	}
	return sent, nil
}

// Close lets go of the device: the kernel takes back all requests. A Read and a Write that wait fail.
func (p *Port) Close() error {
	var err error
	p.once.Do(func() {
		close(p.closed)
		p.wake[1].Close() // the reaper's poll sees the end
		<-p.done
		err = errors.Join(p.f.Close(), p.wake[0].Close())
		p.writing.Lock() // no Write is inside the buffer any more; the kernel let go with the file
		defer p.writing.Unlock()
	})
	return err
}
