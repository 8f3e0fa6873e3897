// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"math"
	"time"
)

// A remaining lifetime is one byte: 0 does not expire, else 2^(n/8) seconds, so every value is good to a tenth and the longest is
// 124 years. Boxes have no common clock; each holder takes off the time that it held the parcel.

// LifeOf rounds a duration down; what is over, and what lasts less than a second, is 1 s. For ever is 0.
func LifeOf(d time.Duration) byte {
	s := d.Seconds()
	if s <= 1 {
		return 1
	}
	return byte(max(min(math.Floor(8*math.Log2(s)+1e-9), 255), 1))
}

// Lasts is the duration; ok is false when it does not expire.
func Lasts(life byte) (d time.Duration, ok bool) {
	if life == 0 {
		return 0, false
	}
	return time.Duration(math.Exp2(float64(life)/8) * float64(time.Second)), true
}
