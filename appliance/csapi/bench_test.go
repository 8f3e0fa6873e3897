// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"hallig/tools/matrixclient"
)

// BenchmarkSend is the way of a message through the handler, without the network.
func BenchmarkSend(b *testing.B) {
	x := newBox(b)
	alice := x.user("alice")
	room := x.room(alice, matrixclient.CreateRoom{})
	var n atomic.Int64
	b.SetParallelism(5)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			path := matrixclient.Path("rooms", room, "send", "m.room.message", strconv.FormatInt(n.Add(1), 10))
			r := httptest.NewRequest(http.MethodPut, path, strings.NewReader(`{"msgtype":"m.text","body":"Wasserstand steigt, wir bringen die Tiere auf die Warft"}`))
			r.Header.Set("Authorization", "Bearer "+alice.Token)
			w := httptest.NewRecorder()
			x.h.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatal(w.Code, w.Body)
			}
		}
	})
}
