// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"

	sim "hallig/tools/bench/goodput"
)

func goodput(_ context.Context, b *bench) error {
	for _, percent := range []int{0, 5, 20} {
		sum := 0.0
		for seed := range uint64(20) {
			sum += sim.Goodput(1200, float64(percent)/100, seed+1)
		}
		b.say(fmt.Sprintf("goodput_1200_loss%d", percent), sum/20, "1",
			"payload of arrived 2 KB messages / line rate (10 bits a byte), one direction saturated, half duplex, TXDELAY 300 ms, simulated, mean of 20 seeds")
	}
	return nil
}
