// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"hallig/appliance/admin"
	"hallig/appliance/health"
	"hallig/appliance/steward"
)

// metrics counts what monitoring wants to know. It names servers, never users or rooms.
func (b *Box) metrics(ctx context.Context) (admin.Metrics, error) {
	s, err := b.status(ctx)
	if err != nil {
		return nil, err
	}
	var m admin.Metrics
	m.Add("hallig_info", "Which program runs; the value is always 1.", false, 1, "version", s.Version, "server_name", s.ServerName)
	healthMetrics(&m, s.Health)
	m.Add("hallig_accounts", "Accounts on the box.", false, float64(s.Accounts))
	m.Add("hallig_rooms", "Rooms that the box takes part in.", false, float64(s.Rooms))
	m.Add("hallig_log_position", "Position of the newest event or other change.", true, float64(s.Position))
	m.Add("hallig_database_flushes_total", "Commits that were flushed to the disk since the start.", true, float64(s.Flushes))
	m.Add("hallig_disk_free_bytes", "What the disk of the data directory still takes.", false, float64(s.FreeBytes))
	m.Add("hallig_clock_trusted", "1 while somebody vouches for the time.", false, one(s.Clock.Trusted))
	m.Add("hallig_clock_seconds", "The time of the box, seconds since 1970.", false, float64(s.Clock.Time.UnixMilli())/1000)
	notTaken := admin.Metric{Name: "hallig_events_not_taken_total", Help: "Events of other servers that were not taken in since the start.", Counter: true}
	for why, n := range s.NotTaken {
		notTaken.Samples = append(notTaken.Samples, admin.Sample{Labels: []string{"why", why}, Value: float64(n)})
	}
	m = append(m, notTaken)
	m.Add("hallig_logs_refused_total", "How often another box named a log of a room that is one more than this box remembers, since the start.", true, float64(b.db.LogsRefused()))
	conflicts := admin.Metric{Name: "hallig_conflicts_total", Help: "What did not survive the end of a partition, since the box was set up.", Counter: true}
	for what, n := range s.Conflicts {
		conflicts.Samples = append(conflicts.Samples, admin.Sample{Labels: []string{"what", what}, Value: float64(n)})
	}
	m = append(m, conflicts)
	peerMetrics(&m, s)
	carriedMetrics(&m, s.Carried)
	b.lineMetrics(&m)
	processMetrics(&m, s)
	if st, err := b.stewardState(ctx); err == nil { // on a box that runs from the image
		programMetrics(&m, st)
	}
	return m, nil
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func healthMetrics(m *admin.Metrics, t health.Tree) {
	rank := map[health.State]float64{health.OK: 0, health.Look: 1, health.Trouble: 2}
	m.Add("hallig_health", "How the box does: 0 all is well, 1 somebody should look, 2 something does not work.", false, rank[t.State])
	nodes := admin.Metric{Name: "hallig_health_node", Help: "The same for each part; because names the part that explains it."}
	for _, n := range t.Nodes {
		nodes.Samples = append(nodes.Samples, admin.Sample{Labels: []string{"node", n.ID, "because", n.Because}, Value: rank[n.State]})
	}
	*m = append(*m, nodes)
}

func peerMetrics(m *admin.Metrics, s admin.Status) {
	reach := admin.Metric{Name: "hallig_peer_in_reach", Help: "1 while a paired box is in reach."}
	queued := admin.Metric{Name: "hallig_peer_queued", Help: "Events that a paired box has not confirmed as kept."}
	for _, p := range s.Peers {
		label := []string{"server", p.ServerName}
		reach.Samples = append(reach.Samples, admin.Sample{Labels: label, Value: one(p.Carrier != "")})
		queued.Samples = append(queued.Samples, admin.Sample{Labels: label, Value: float64(p.Queued)})
	}
	servers := admin.Metric{Name: "hallig_server_queued", Help: "Events that another server has not confirmed."}
	coming := admin.Metric{Name: "hallig_server_coming", Help: "About how many events are still to come from another server."}
	left := admin.Metric{Name: "hallig_server_left_with_hub", Help: "Of these, events that the hub brings also when this box is gone."}
	failing := admin.Metric{Name: "hallig_server_in_reach", Help: "1 while another server answers."}
	for _, srv := range s.Servers {
		label := []string{"server", srv.Name}
		servers.Samples = append(servers.Samples, admin.Sample{Labels: label, Value: float64(srv.Queued)})
		coming.Samples = append(coming.Samples, admin.Sample{Labels: label, Value: float64(srv.Coming)})
		left.Samples = append(left.Samples, admin.Sample{Labels: label, Value: float64(srv.Left)})
		failing.Samples = append(failing.Samples, admin.Sample{Labels: label, Value: one(srv.Trouble == "")})
	}
	*m = append(*m, reach, queued, servers, left, coming, failing)
}

func (b *Box) lineMetrics(m *admin.Metrics) {
	metrics := []admin.Metric{
		{Name: "hallig_line_open", Help: "1 while the serial port is open."},
		{Name: "hallig_line_up", Help: "1 while a far end answers."},
		{Name: "hallig_line_sent_bytes_total", Help: "Bytes on the wire, framing included.", Counter: true},
		{Name: "hallig_line_received_bytes_total", Help: "Bytes on the wire, framing included.", Counter: true},
		{Name: "hallig_line_retransmissions_total", Help: "Data frames that were sent again.", Counter: true},
		{Name: "hallig_line_airtime_seconds_total", Help: "How long this end has transmitted.", Counter: true},
		{Name: "hallig_line_airtime_left_seconds", Help: "What the duty cycle of its band allows at once, without the reserve for flash."},
		{Name: "hallig_line_send_in_seconds", Help: "How long the next frame has to wait for air time."},
	}
	for _, port := range b.exchange.ports {
		st := port.Stats()
		label := []string{"line", strings.TrimPrefix(port.Name(), "serial:")}
		for i, v := range []float64{one(st.PortOpen), one(st.Up), float64(st.BytesSent), float64(st.BytesReceived), float64(st.Retransmissions), st.Airtime.Seconds()} {
			metrics[i].Samples = append(metrics[i].Samples, admin.Sample{Labels: label, Value: v})
		}
		if st.AirLimited {
			metrics[6].Samples = append(metrics[6].Samples, admin.Sample{Labels: label, Value: st.AirLeft.Seconds()})
			metrics[7].Samples = append(metrics[7].Samples, admin.Sample{Labels: label, Value: st.SendIn.Seconds()})
		}
	}
	*m = append(*m, metrics...)
	b.lineQuality(m)
}

// programMetrics are those of all programs of the box, as init counts them.
func programMetrics(m *admin.Metrics, s steward.State) {
	memory := admin.Metric{Name: "hallig_process_resident_bytes", Help: "Memory in use by each program of the box."}
	restarts := admin.Metric{Name: "hallig_process_restarts_total", Help: "How often init started it again since power on.", Counter: true}
	for _, p := range s.Processes {
		label := []string{"process", p.Name}
		memory.Samples = append(memory.Samples, admin.Sample{Labels: label, Value: float64(p.RSS)})
		restarts.Samples = append(restarts.Samples, admin.Sample{Labels: label, Value: float64(p.Restarts)})
	}
	*m = append(*m, memory, restarts)
}

func processMetrics(m *admin.Metrics, s admin.Status) {
	m.Add("process_start_time_seconds", "When the process was started, by the system's clock.", false, float64(s.Started.UnixMilli())/1000)
	m.Add("go_goroutines", "Goroutines now.", false, float64(runtime.NumGoroutine()))
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		cpu := float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
		m.Add("process_cpu_seconds_total", "Processor time used.", true, cpu)
	}
	if raw, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(raw)); len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				m.Add("process_resident_memory_bytes", "Memory in use.", false, float64(pages*int64(os.Getpagesize())))
			}
		}
	}
}
