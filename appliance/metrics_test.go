// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"strings"
	"testing"

	"hallig/appliance/admin"
	"hallig/appliance/steward"
)

func TestProgramMetrics(t *testing.T) {
	var m admin.Metrics
	programMetrics(&m, steward.State{Processes: []steward.Process{{Name: "hallig", RSS: 40 << 20, Restarts: 2}, {Name: "hallig-vault", RSS: 14e6}}})
	var out strings.Builder
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hallig_process_resident_bytes{process=\"hallig\"} 4.194304e+07\n",
		"hallig_process_resident_bytes{process=\"hallig-vault\"} 1.4e+07\n",
		"hallig_process_restarts_total{process=\"hallig\"} 2\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
