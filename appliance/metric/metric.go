// SPDX-License-Identifier: EUPL-1.2

// Package metric writes what monitoring wants to know, in the text format of Prometheus, version 0.0.4. The format is a line a sample, so it is written here: the usual
// library keeps registries and costs a small box more memory than all it tells. It leaves to others what is told, and to whom.
//
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
package metric

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// ContentType is that of what Write writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Metric is one name with its samples. Names are ours: [a-z_]+.
type Metric struct {
	Name, Help string
	Counter    bool // it only grows; otherwise it is a gauge
	Samples    []Sample
}

// Sample is a value; Labels are name, value, name, value.
type Sample struct {
	Labels []string
	Value  float64
}

// Metrics is all that is told.
type Metrics []Metric

// Add appends a metric of one sample.
func (m *Metrics) Add(name, help string, counter bool, value float64, labels ...string) {
	*m = append(*m, Metric{Name: name, Help: help, Counter: counter, Samples: []Sample{{labels, value}}})
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Write writes the text. Metrics without samples are left out.
func (m Metrics) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, metric := range m {
		if len(metric.Samples) == 0 {
			continue
		}
		kind := "gauge"
		if metric.Counter {
			kind = "counter"
		}
		b.WriteString("# HELP " + metric.Name + " " + escapeHelp.Replace(metric.Help) + "\n# TYPE " + metric.Name + " " + kind + "\n")
		for _, s := range metric.Samples {
			b.WriteString(metric.Name)
			for i := 0; i+1 < len(s.Labels); i += 2 {
				sep := "{"
				if i > 0 {
					sep = ","
				}
				b.WriteString(sep + s.Labels[i] + `="` + escapeLabel.Replace(strings.ToValidUTF8(s.Labels[i+1], "?")) + `"`)
			}
			if len(s.Labels) > 1 {
				b.WriteByte('}')
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	return b.Flush() // it remembers the first error
}
