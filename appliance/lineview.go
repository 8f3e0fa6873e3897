// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
	"hallig/appliance/steward"
	"hallig/radio"
	"hallig/radio/serial"
	"hallig/sync/link"
)

// lineSeen is what a line was like when the box last looked, and since when.
type lineSeen struct {
	open, up, known  bool
	since            time.Time
	received, unlike uint64 // the counters then

	boxes []string // paired boxes that it leads to
}

// noteLines looks at the lines. Under care.mu.
func (c *care) noteLines(now time.Time, ports []*radio.Port, status []link.PeerStatus) {
	if c.lines == nil {
		c.lines = map[string]lineSeen{}
	}
	for _, port := range ports {
		stats := port.Stats()
		is := lineSeen{open: stats.PortOpen, up: stats.Up, since: now, received: stats.BytesReceived, unlike: stats.Unlike, boxes: boxesOn(port.Name(), status)}
		is.known = len(is.boxes) > 0
		if was, ok := c.lines[port.Name()]; ok && was.open == is.open && was.up == is.up && was.known == is.known {
			is.since, is.received, is.unlike = was.since, was.received, was.unlike
		}
		c.lines[port.Name()] = is
	}
}

// boxesOn are the paired boxes that a transport leads to now.
func boxesOn(transport string, status []link.PeerStatus) (out []string) {
	for _, p := range status {
		if p.Carries == transport || slices.Contains(p.StandsBy, transport) {
			out = append(out, p.Peer.Server)
		}
	}
	return out
}

// seenLine is what notePeers has noted.
func (b *Box) seenLine(port *radio.Port) lineSeen {
	b.care.mu.Lock()
	defer b.care.mu.Unlock()
	return b.care.lines[port.Name()]
}

// someBytes come in by chance, when a plug goes in.
const someBytes = 64

// lineFacts are what health judges a line by. What init knows of the device comes before what opening it said.
func lineFacts(line SerialConfig, port *radio.Port, known []steward.Port, seen lineSeen, now time.Time) health.LineFacts {
	stats, q := port.Stats(), port.Quality()
	name, kind := lineName(line.Device), modemOf(line).Kind
	out := health.LineFacts{
		Name: port.Name(), Device: name, Modem: string(kind), Open: stats.PortOpen, Up: stats.Up, Opening: q.Opening, Met: stats.Contacts > 0,
		Since: now.Sub(seen.since), Boxes: seen.boxes, BitsPerSecond: stats.BitsPerSecond,
		Stuck: q.Stuck, Garbled: stats.BytesReceived >= seen.received+someBytes, Unlike: stats.Unlike > seen.unlike,
		NoBand: kind == serial.Transparent && line.InBand() == "",
		Signal: q.Modem.Signal, RSSI: q.Modem.RSSI, SNR: q.Modem.SNR, Sent: q.Asked, Again: q.Again,
	}
	if stats.AirLimited && stats.AirLeft < stats.AirLimit/100 {
		out.AirWait = stats.SendIn
	}
	if stats.PortOpen {
		return out
	}
	out.Trouble, out.Err = troubleOf(q.Trouble)
	for _, p := range known {
		if !p.Note.Empty() && (p.Name == name || filepath.Base(p.Device) == name || p.TTY == name) {
			out.Trouble = health.Sentence{DE: p.Note.De, EN: p.Note.En}
		}
	}
	return out
}

// troubleOf is what is wrong with a line, in sentences where its modem has some, and in the words of the system.
func troubleOf(err error) (health.Sentence, string) {
	if err == nil {
		return health.Sentence{}, ""
	}
	var f *serial.Fault
	if errors.As(err, &f) {
		detail := ""
		if f.Err != nil {
			detail = f.Err.Error()
		}
		return health.Sentence{DE: f.DE, EN: f.EN}, detail
	}
	return health.Sentence{}, err.Error()
}

// lines are the serial lines for status and pages.
func (b *Box) lines() []admin.Line {
	var out []admin.Line
	status := b.exchange.link.Status()
	for i, port := range b.exchange.ports {
		stats, q := port.Stats(), port.Quality()
		l := admin.Line{
			Name: port.Name(), Device: b.cfg.Serial[i].Device, Modem: string(modemOf(b.cfg.Serial[i]).Kind), Band: b.cfg.Serial[i].InBand(), Open: stats.PortOpen, Up: stats.Up,
			BitsPerSecond: stats.BitsPerSecond, SentBytes: int64(stats.BytesSent), ReceivedBytes: int64(stats.BytesReceived),
			Frames: int64(stats.FramesSent), Repeated: int64(stats.Retransmissions), Refused: int64(stats.FramesRefused), ModemRefused: int64(q.Modem.Refused), Note: q.Modem.Note,
			Boxes: boxesOn(port.Name(), status),
		}
		if q.Modem.Signal {
			l.RSSI, l.SNR = &q.Modem.RSSI, &q.Modem.SNR
		}
		if stats.AirLimited && stats.PortOpen {
			left := stats.AirLeft.Seconds()
			l.AirLeft, l.SendIn = &left, stats.SendIn.Seconds()
		}
		if !stats.PortOpen {
			trouble, detail := troubleOf(q.Trouble)
			if trouble.Empty() {
				trouble = health.Sentence{DE: detail, EN: detail}
			}
			l.Trouble = trouble
		}
		out = append(out, l)
	}
	return out
}

// lineQuality are the metrics of what modems and far ends say.
func (b *Box) lineQuality(m *admin.Metrics) {
	metrics := []admin.Metric{
		{Name: "hallig_line_frames_sent_total", Help: "Frames sent, repetitions included.", Counter: true},
		{Name: "hallig_line_frames_refused_total", Help: "Received frames that were not taken: damaged, not ours, not of this contact.", Counter: true},
		{Name: "hallig_line_modem_refused_total", Help: "Frames that the modem did not send: busy, full, failed.", Counter: true},
		{Name: "hallig_line_rssi_dbm", Help: "Signal of the last frame heard, as its modem tells."},
		{Name: "hallig_line_snr_db", Help: "Signal against noise of the last frame heard, as its modem tells."},
	}
	for _, l := range b.lines() {
		label := []string{"line", strings.TrimPrefix(l.Name, "serial:")}
		for i, v := range []int64{l.Frames, l.Refused, l.ModemRefused} {
			metrics[i].Samples = append(metrics[i].Samples, admin.Sample{Labels: label, Value: float64(v)})
		}
		if l.RSSI != nil {
			metrics[3].Samples = append(metrics[3].Samples, admin.Sample{Labels: label, Value: float64(*l.RSSI)})
			metrics[4].Samples = append(metrics[4].Samples, admin.Sample{Labels: label, Value: *l.SNR})
		}
	}
	*m = append(*m, metrics...)
}
