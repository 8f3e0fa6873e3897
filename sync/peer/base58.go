// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"errors"
	"slices"
	"strings"
)

// alphabet58 is the Bitcoin alphabet of base58btc.
const alphabet58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

func encode58(b []byte) string {
	zeros := 0
	for zeros < len(b) && b[zeros] == 0 {
		zeros++
	}
	var digits []byte // least significant first
	for _, c := range b[zeros:] {
		carry := int(c)
		for i := range digits {
			carry += int(digits[i]) << 8
			digits[i] = byte(carry % 58)
			carry /= 58
		}
		for ; carry > 0; carry /= 58 {
			digits = append(digits, byte(carry%58))
		}
	}
	out := []byte(strings.Repeat("1", zeros))
	for _, d := range slices.Backward(digits) {
		out = append(out, alphabet58[d])
	}
	return string(out)
}

func decode58(s string) ([]byte, error) {
	zeros := 0
	for zeros < len(s) && s[zeros] == '1' {
		zeros++
	}
	var raw []byte // least significant first
	for _, c := range []byte(s[zeros:]) {
		carry := strings.IndexByte(alphabet58, c)
		if carry < 0 {
			return nil, errors.New("not a base58 character")
		}
		for i := range raw {
			carry += int(raw[i]) * 58
			raw[i] = byte(carry)
			carry >>= 8
		}
		for ; carry > 0; carry >>= 8 {
			raw = append(raw, byte(carry))
		}
	}
	slices.Reverse(raw)
	return append(make([]byte, zeros), raw...), nil
}
