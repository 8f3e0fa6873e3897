// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/ether"
)

func TestForecast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, Seed: 1}, nil)
		port := b.s[0].port
		if _, ok := port.Forecast(port.Addr(), 3, 100); ok {
			t.Error("a forecast without contact")
		}
		until(t, time.Minute, "contact", b.up)
		if _, ok := port.Forecast("somebody", 3, 100); ok {
			t.Error("a forecast for a stranger")
		}
		for range 3 {
			port.Send(port.Addr(), 3, make([]byte, 1000), nil)
		}
		due, ok := port.Forecast(port.Addr(), 3, 2000)
		if !ok {
			t.Fatal("no forecast")
		}
		began := time.Now()
		var arrived atomic.Bool
		port.Send(port.Addr(), 3, make([]byte, 2000), func(error) { arrived.Store(true) })
		until(t, 5*time.Minute, "the message", arrived.Load)
		if took := time.Since(began); took < due*7/10 || took > due*14/10 {
			t.Errorf("took %v, forecast %v", took, due)
		}
	})
}
