// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"

	sim "hallig/tools/bench/goodput"
)

func goodputWire(_ context.Context, b *bench) error {
	for _, percent := range []int{0, 5, 20} {
		lowest := 1.0
		for _, rate := range []int{9600, 57600, 115200} {
			sum := 0.0
			for seed := range uint64(5) {
				sum += sim.Wire(rate, float64(percent)/100, seed+1)
			}
			lowest = min(lowest, sum/5)
		}
		b.say(fmt.Sprintf("goodput_wire_loss%d", percent), lowest, "1",
			"payload of arrived 2 KB messages / line rate (8N1), one direction saturated, full duplex, simulated, mean of 5 seeds, the lowest of 9600, 57600 and 115200 bit/s")
	}
	return nil
}

// dutyCycle measures what the budgets of two sub-bands come to over a virtual day, as the medium sees it.
func dutyCycle(_ context.Context, b *bench) error {
	share, violations := 1.0, 0
	const hours = 24
	for i, load := range sim.Loads() {
		for _, band := range []string{"eu868-10", "eu868-1"} {
			d := sim.RunDutyCycle(band, load, hours, []float64{0, 0.1}[i%2], uint64(i))
			violations += d.Violations
			if load.Priority >= 0 {
				share = min(share, d.Share)
			}
		}
	}
	b.say("eu868_share_percent", 100*share, "%",
		"share of the air time open to the offered classes (nine tenths of the duty cycle without flash) that the saturated end used in 24 hours; the lowest of four loads at 10 % and 1 %, 9600 bit/s, half duplex, simulated")
	b.say("eu868_violations", float64(violations), "1",
		"windows of 3600 s, of all that end with a transmission, that held more than the duty cycle; five loads, both ends, 10 % and 1 %, 24 hours each, measured at the medium")
	return nil
}
