// SPDX-License-Identifier: EUPL-1.2

package frame

import "strings"

// callVersion is the first byte of a hello that tells a call sign; "DE " and the call sign follow in ASCII, for everybody to read.
const callVersion = 3

// CallFrame is a whole frame, before framing, that tells the station's call sign.
func CallFrame(call string) []byte {
	return Seal(nil, &Frame{Type: Hello, Body: append([]byte{callVersion}, "DE "+call...)}, Context{}, nil)
}

// CallOf is the call sign that a frame tells.
func CallOf(f *Frame) (string, bool) {
	if f.Type != Hello || len(f.Body) == 0 || f.Body[0] != callVersion {
		return "", false
	}
	call, ok := strings.CutPrefix(string(f.Body[1:]), "DE ")
	return call, ok && ValidCall(call)
}
