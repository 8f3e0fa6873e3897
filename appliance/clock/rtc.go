// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RTCMark is what a box remembers of the hardware's clock when it has set it. Without a mark that fits, that clock is not believed: in a PC it may run in local
// time since another system was on it, and lead by hours.
type RTCMark struct {
	Set     int64   `json:"set"`     // to which time, in seconds
	Quality Quality `json:"quality"` // of that time
	Machine string  `json:"machine"` // which machine: a disk may move to another one
}

// rtcDrift is how much such clocks go wrong at worst: 100 parts in a million, nine seconds a day.
const rtcDrift = 10_000

// RTC reads the hardware's clock; sys is the file system /sys. Its word is taken back by the drift since it was set, so that it lags. why says, when ok
// is false, what is the matter; "" when there is no such clock or it was never set.
func RTC(sys fs.FS, m RTCMark, floor time.Time) (r Reading, ok bool, why string) {
	raw, err := fs.ReadFile(sys, "class/rtc/rtc0/since_epoch")
	if err != nil || m.Set == 0 || m.Machine != Machine(sys) {
		return r, false, ""
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil || sec < m.Set || time.Unix(sec, 0).Before(floor) {
		return r, false, "the hardware's clock has stopped meanwhile: its battery is empty"
	}
	since := time.Duration(sec-m.Set) * time.Second
	t := time.Unix(sec, 0).Add(-since / rtcDrift)
	if t.Before(floor) {
		t = floor // which was vouched for
	}
	return Reading{Time: t, Quality: min(m.Quality, Kept), Source: "the hardware's clock"}, true, ""
}

// Machine tells machines apart, by the addresses of their network hardware; "": it cannot be told.
func Machine(sys fs.FS) string {
	entries, err := fs.ReadDir(sys, "class/net")
	if err != nil {
		return ""
	}
	var addrs []string
	for _, e := range entries {
		dir := path.Join("class/net", e.Name())
		kind, _ := fs.ReadFile(sys, path.Join(dir, "addr_assign_type")) // 0: the hardware's own
		addr, err := fs.ReadFile(sys, path.Join(dir, "address"))
		if err == nil && strings.TrimSpace(string(kind)) == "0" && e.Name() != "lo" {
			addrs = append(addrs, strings.TrimSpace(string(addr)))
		}
	}
	if len(addrs) == 0 {
		return ""
	}
	slices.Sort(addrs)
	h := sha256.Sum256([]byte(strings.Join(addrs, " ")))
	return hex.EncodeToString(h[:8])
}
