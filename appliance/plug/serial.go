// SPDX-License-Identifier: EUPL-1.2

package plug

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hallig/appliance/steward"
)

// chip is one row of the table of USB serial chips.
type chip struct {
	ids    string // vendor:product, or vendor: for all of a vendor
	short  string // for names
	name   string // for people
	driver string // of Linux
}

// chips are those that radios, TNCs and GPS receivers come with. The first row that fits counts.
var chips = []chip{
	{"0403:6001", "ftdi", "FTDI FT232R", "ftdi_sio"},
	{"0403:6010", "ftdi", "FTDI FT2232", "ftdi_sio"},
	{"0403:6011", "ftdi", "FTDI FT4232", "ftdi_sio"},
	{"0403:6014", "ftdi", "FTDI FT232H", "ftdi_sio"},
	{"0403:6015", "ftdi", "FTDI FT-X", "ftdi_sio"},
	{"0403:", "ftdi", "FTDI", "ftdi_sio"},
	{"10c4:ea60", "cp210x", "Silicon Labs CP2102", "cp210x"},
	{"10c4:ea70", "cp210x", "Silicon Labs CP2105", "cp210x"},
	{"10c4:ea71", "cp210x", "Silicon Labs CP2108", "cp210x"},
	{"1a86:7523", "ch341", "WCH CH340", "ch341"},
	{"1a86:7522", "ch341", "WCH CH340K", "ch341"},
	{"1a86:5523", "ch341", "WCH CH341", "ch341"},
	{"1a86:55d3", "ch343", "WCH CH343", "cdc_acm"},
	{"1a86:55d4", "ch9102", "WCH CH9102", "cdc_acm"},
	{"067b:", "pl2303", "Prolific PL2303", "pl2303"},
	{"303a:", "esp32", "Espressif ESP32 (USB)", "cdc_acm"},
	{"239a:", "nrf52", "Nordic nRF52840 / Adafruit (USB)", "cdc_acm"},
	{"2e8a:", "rp2040", "Raspberry Pi RP2040 (USB)", "cdc_acm"},
	{"1546:", "ublox", "u-blox GPS (USB)", "cdc_acm"},
	{"0483:5740", "stm32", "STM32 (USB)", "cdc_acm"},
	{"2341:", "arduino", "Arduino (USB)", "cdc_acm"},
	{"2c7c:", "quectel", "Quectel modem", "option"},
	{"12d1:", "huawei", "Huawei modem", "option"},
	{"1e0e:", "simcom", "SIMCom modem", "option"},
}

func lookup(ids string) (chip, bool) {
	for _, c := range chips {
		if ids == c.ids || strings.HasSuffix(c.ids, ":") && strings.HasPrefix(ids, c.ids) {
			return c, true
		}
	}
	return chip{}, false
}

// Folder is where serial ports have their stable names.
const Folder = "/dev/hallig"

// Port is a serial port, and where a device without a driver of the kernel is that a program can drive.
type Port struct {
	steward.Port
	// USB device folder of a CDC ACM device that the kernel has no driver for; "" for all others. Such a port has a name, and no TTY yet.
	Driverless string
	Node       string // of the same, below /dev: bus/usb/001/004
}

// Ports lists the serial ports of a machine whose tree of devices is at sys, those with a name first and sorted by it. Consoles are no ports: the
// kernel talks there.
func Ports(sys string) []Port {
	var ports []Port
	consoles := strings.Fields(text(sys, "class/tty/console/active"))
	ttys, _ := os.ReadDir(filepath.Join(sys, "class/tty"))
	for _, e := range ttys {
		if p, ok := port(sys, e.Name()); ok && !slices.Contains(consoles, p.TTY) {
			ports = append(ports, Port{Port: p})
		}
	}
	ports = append(ports, driverless(sys)...)
	unique(ports)
	for i := range ports {
		if ports[i].Name != "" {
			ports[i].Device = filepath.Join(Folder, ports[i].Name)
		}
	}
	slices.SortStableFunc(ports, func(a, b Port) int {
		if (a.Name == "") != (b.Name == "") {
			return strings.Compare(b.Name, a.Name) // those without a name last
		}
		return strings.Compare(a.Name, b.Name)
	})
	return ports
}

// unique tells two ports of the same name apart by their sockets. Chips that leave the factory with one serial number for all are why this happens.
func unique(ports []Port) {
	seen := make(map[string]int)
	for _, p := range ports {
		seen[p.Name]++
	}
	for i := range ports {
		if seen[ports[i].Name] > 1 && ports[i].Serial != "" {
			c, _, _ := strings.Cut(ports[i].Name, "-")
			ports[i].Name = c + "-" + ports[i].Socket
		}
	}
}

// port describes one tty; false when it is no serial port with hardware behind it.
func port(sys, tty string) (steward.Port, bool) {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "class/tty", tty))
	if err != nil {
		return steward.Port{}, false
	}
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
		return steward.Port{}, false // virtual consoles and the like
	}
	p := steward.Port{TTY: tty}
	root, _ := filepath.EvalSymlinks(sys)
	usb := above(root, dir, "idVendor")
	if usb == "" {
		// A UART of the board. The kernel makes ttyS0 to ttyS3 whether there is hardware or not; type 0 is none.
		if text(dir, "type") == "0" {
			return p, false
		}
		p.Chip, p.Known = "UART", true
		p.Driver = driver(filepath.Join(dir, "device"))
		switch n, isS := strings.CutPrefix(tty, "ttyS"); {
		case isS:
			p.Name = "uart" + n
		case strings.HasPrefix(tty, "tty") && len(tty) > 3 && tty[3] >= 'A':
			p.Name = "uart-" + strings.ToLower(tty[3:])
		default:
			return p, false
		}
		return p, true
	}
	iface := above(root, dir, "bInterfaceNumber")
	p.Driver = driver(iface)
	// Chips with several ports have several interfaces; the first one has no suffix, so that simple chips have simple names.
	suffix := ""
	if n := strings.TrimLeft(text(iface, "bInterfaceNumber"), "0"); n != "" && !strings.HasPrefix(tty, "ttyACM") {
		suffix = "-if" + n
	}
	usbPort(&p, usb, suffix)
	return p, true
}

// usbPort fills in what a USB device says of itself, and the name made of it.
func usbPort(p *steward.Port, usb, suffix string) (known chip, isKnown bool) {
	p.USB, p.Serial = text(usb, "idVendor")+":"+text(usb, "idProduct"), text(usb, "serial")
	p.Socket = "port" + filepath.Base(usb) + suffix
	c, ok := lookup(p.USB)
	p.Chip, p.Known = c.name, ok
	short := c.short
	if !ok {
		p.Chip = strings.TrimSpace(text(usb, "manufacturer") + " " + text(usb, "product"))
		short = "usb"
	}
	key := safe(p.Serial)
	if anonymous(key) {
		key, p.Serial = "", ""
	}
	if key == "" {
		p.Name = short + "-" + p.Socket
	} else {
		p.Name = short + "-" + key + suffix
	}
	return c, ok
}

// anonymous says whether a serial number is one that a factory gives to all its chips.
func anonymous(serial string) bool {
	return len(strings.Trim(serial, "0")) <= 1 || serial == "0123456789" || serial == "1234567890" || serial == "0123456789ABCDEF"
}

func driver(dir string) string {
	link, err := os.Readlink(filepath.Join(dir, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// driverless lists USB devices that would be serial ports if the kernel had their driver.
func driverless(sys string) []Port {
	var ports []Port
	devices, _ := os.ReadDir(filepath.Join(sys, "bus/usb/devices"))
	for _, e := range devices {
		name := e.Name()
		if !strings.Contains(name, ":") {
			continue // a device, or a root hub; its interfaces follow
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(sys, "bus/usb/devices", name))
		if err != nil {
			continue
		}
		// usbfs is a program that drives the device: ours
		if d := driver(dir); d != "" && d != "usbfs" {
			continue
		}
		usb := filepath.Dir(dir)
		var p Port
		c, known := usbPort(&p.Port, usb, "")
		const class, acm = "02", "02" // Communications Device Class, Abstract Control Model: USB CDC 1.2, PSTN 1.2
		isACM := text(dir, "bInterfaceClass") == class && text(dir, "bInterfaceSubClass") == acm
		switch {
		case isACM:
			if slices.ContainsFunc(ports, func(o Port) bool { return o.Driverless == usb }) {
				continue // a device with several such ports: the first one is driven
			}
			if !known {
				p.Chip += " (CDC ACM)"
			}
			p.Driverless = usb
			p.Node = fmt.Sprintf("bus/usb/%03d/%03d", number(usb, "busnum"), number(usb, "devnum"))
		case known && c.driver != "cdc_acm" && text(dir, "bInterfaceClass") == "ff":
			p.Name = ""
			p.Note = steward.Text{
				De: fmt.Sprintf("Der Kernel dieser Box hat keinen Treiber für %s (%s). Nehmen Sie ein Gerät mit FTDI, CP210x oder CH340.", p.Chip, c.driver),
				En: fmt.Sprintf("This box's kernel has no driver for %s (%s). Take a device with FTDI, CP210x or CH340.", p.Chip, c.driver),
			}
		default:
			continue
		}
		ports = append(ports, p)
	}
	return ports
}
