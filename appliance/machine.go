// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bufio"
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"hallig/appliance/health"
)

// machine is what Linux tells everybody of the machine: /proc and /sys. Parts that are not there are nil.
type machine struct {
	memory      *health.MemoryFacts
	temperature *health.TemperatureFacts
	power       *health.PowerFacts
	uplink      bool // there is a default route
}

// readMachine looks at a file system that begins at /.
func readMachine(root fs.FS) machine {
	return machine{memory: readMemory(root), temperature: readTemperature(root), power: readPower(root), uplink: readUplink(root)}
}

func readMemory(root fs.FS) *health.MemoryFacts {
	raw, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return nil
	}
	var m health.MemoryFacts
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			m.Total = kb << 10
		case "MemAvailable:":
			m.Available = kb << 10
		}
	}
	if m.Total == 0 {
		return nil
	}
	return &m
}

func number(root fs.FS, name string) (float64, bool) {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
	return n, err == nil
}

func word(root fs.FS, name string) string {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// readTemperature takes the hottest zone. Zones give thousandths of a degree.
func readTemperature(root fs.FS) *health.TemperatureFacts {
	zones, err := fs.Glob(root, "sys/class/thermal/thermal_zone*")
	if err != nil {
		return nil
	}
	var hottest *health.TemperatureFacts
	for _, zone := range zones {
		milli, ok := number(root, path.Join(zone, "temp"))
		if !ok || milli <= 0 || milli > 200_000 { // a sensor that is not there reads as nonsense
			continue
		}
		t := health.TemperatureFacts{Celsius: milli / 1000}
		for i := range 8 {
			trip := path.Join(zone, "trip_point_"+strconv.Itoa(i))
			if word(root, trip+"_type") == "critical" {
				if milli, ok := number(root, trip+"_temp"); ok && milli > 40_000 && milli <= 200_000 {
					t.Critical = milli / 1000
				}
			}
		}
		if hottest == nil || t.Celsius > hottest.Celsius {
			hottest = &t
		}
	}
	return hottest
}

// readPower looks for batteries, mains and the Raspberry Pi's voltage alarm.
func readPower(root fs.FS) *health.PowerFacts {
	p := health.PowerFacts{Battery: -1}
	found, mains, discharging := false, false, false
	supplies, err := fs.Glob(root, "sys/class/power_supply/*")
	if err != nil {
		return nil
	}
	for _, s := range supplies {
		switch word(root, path.Join(s, "type")) {
		case "Mains", "USB":
			if on, ok := number(root, path.Join(s, "online")); ok {
				found, mains = true, mains || on == 1
			}
		case "Battery", "UPS":
			if word(root, path.Join(s, "scope")) == "Device" { // of a mouse
				continue
			}
			if percent, ok := number(root, path.Join(s, "capacity")); ok {
				found, p.Battery = true, int(percent)
			}
			discharging = discharging || word(root, path.Join(s, "status")) == "Discharging"
		}
	}
	p.OnBattery = p.Battery >= 0 && discharging && !mains
	sensors, err := fs.Glob(root, "sys/class/hwmon/hwmon*")
	if err != nil {
		return nil
	}
	for _, s := range sensors {
		if word(root, path.Join(s, "name")) != "rpi_volt" {
			continue
		}
		if alarm, ok := number(root, path.Join(s, "in0_lcrit_alarm")); ok {
			found, p.UnderVoltage = true, alarm == 1
		}
	}
	if !found {
		return nil
	}
	return &p
}

// readUplink looks for a default route: destination and mask 0.
func readUplink(root fs.FS) bool {
	raw, err := fs.ReadFile(root, "proc/net/route")
	if err != nil {
		return false
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 8 && fields[1] == "00000000" && fields[7] == "00000000" {
			return true
		}
	}
	return false
}
