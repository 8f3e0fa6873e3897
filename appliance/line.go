// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallig/radio"
	"hallig/radio/airtime"
	"hallig/radio/serial"
	"hallig/sync/peer"
)

// modemOf is the modem that a line of the configuration speaks of.
func modemOf(line SerialConfig) serial.Modem {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	kind := serial.Kind(line.Modem)
	if kind == "" && line.HalfDuplex {
		kind = serial.Transparent
	} else if kind == "" {
		kind = serial.Null
	}
	return serial.Modem{
		Kind: kind, Device: line.Device, Baud: line.Baud, RTSCTS: line.RTSCTS, Rate: line.BitsPerSecond, TurnDelay: ms(line.TurnDelayMS),
		CallSign: line.CallSign, Port: line.TNCPort, Persist: line.Persistence, Slot: ms(line.SlotTimeMS), Tail: ms(line.TXTailMS),
		Init: line.Init, Number: line.Number, Adapter: line.RS485Adapter,
		Frequency: line.FrequencyHz, Bandwidth: line.BandwidthHz, SpreadingFactor: line.SpreadingFactor, CodingRate: line.CodingRate, Power: line.TXPowerDBm,
		AirtimeShort: line.AirtimeLimitShort, AirtimeLong: line.AirtimeLimitLong,
	}
}

// lineName is what a line is called: the last part of its device.
func lineName(device string) string {
	if addr, ok := strings.CutPrefix(device, "tcp:"); ok {
		return addr
	}
	return filepath.Base(device)
}

func radioConfig(line SerialConfig, b *Box) radio.Config {
	m := modemOf(line)
	air := m.Air()
	opener := serial.NewOpener(m)
	return radio.Config{
		Name:          lineName(line.Device),
		Open:          func(ctx context.Context) (io.ReadWriteCloser, error) { return opener.Open(ctx) },
		BitsPerSecond: air.BitsPerSecond, BitsPerByte: air.BitsPerByte, FullDuplex: air.FullDuplex, TurnDelay: air.TurnDelay, MTU: air.MTU, Lead: air.Lead,
		Band: line.InBand(), AirtimeFile: b.airtimeFile(line), Air: air.Packet,
		Packets:  line.Modem == "kiss" || line.Modem == "rnode" || line.Modem == "meshcore",
		CallSign: line.CallSign, Correct: line.Raw() && line.Correction != "off", CorrectAlways: line.Correction == "on",
		Shared: line.Stations == "shared", Station: b.stationName(), Polls: line.Polls,
		Log: b.log.With("room", "radio", "port", line.Device),
	}
}

// airtimeFile is where a line's book of air time is kept.
func (b *Box) airtimeFile(line SerialConfig) string {
	return filepath.Join(b.cfg.Data, "airtime-"+strings.ReplaceAll(lineName(line.Device), ":", "-")+".json")
}

// adoptBooks gives a line with a duty cycle that has no book the newest one of a line that is no longer configured: most likely the same
// transmitter under another name, whose hour may be half used. Lines must not be open yet.
func (b *Box) adoptBooks() error {
	left, err := filepath.Glob(filepath.Join(b.cfg.Data, "airtime-*.json"))
	if err != nil {
		return fmt.Errorf("look for records of air time: %w", err)
	}
	age := map[string]time.Time{}
	for _, line := range b.cfg.Serial {
		left = slices.DeleteFunc(left, func(f string) bool { return f == b.airtimeFile(line) })
	}
	for _, f := range left {
		if info, err := os.Stat(f); err == nil { // one that has just gone is nobody's
			age[f] = info.ModTime()
		}
	}
	slices.SortFunc(left, func(x, y string) int { return age[y].Compare(age[x]) })
	for _, line := range b.cfg.Serial {
		book := b.airtimeFile(line)
		band, _ := airtime.Lookup(line.InBand())
		if _, err := os.Lstat(book); !band.Limited() || len(left) == 0 || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Rename(left[0], book); err != nil {
			return fmt.Errorf("take over the record of air time of an earlier line: %w", err)
		}
		b.log.Info("record of air time taken over from a line that is no longer configured", "from", filepath.Base(left[0]), "to", filepath.Base(book))
		left = left[1:]
	}
	return nil
}

// stationName is what this box is called on a shared channel: the beginning of its key, so that others know it again.
func (b *Box) stationName() uint32 {
	brief := peer.IDOf(publicKey(b.id.Box)).Brief()
	return binary.LittleEndian.Uint32(brief[:4])
}
