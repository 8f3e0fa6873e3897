// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// ID is an event id, "$...".
type ID string

// RoomID is a room id, "!...". Opaque: since version 12 it names no server.
type RoomID string

// UserID is a full user id, "@local:server".
type UserID string

const maxID = 255 // bytes

// Server is the part after the first colon, "" if there is none.
func (u UserID) Server() string {
	_, server, _ := strings.Cut(string(u), ":")
	return server
}

// Localpart is the part between the sigil and the first colon, "" if malformed.
func (u UserID) Localpart() string {
	local, _, ok := strings.Cut(string(u), ":")
	if !ok || !strings.HasPrefix(local, "@") {
		return ""
	}
	return local[1:]
}

// ParseUserID accepts what servers must accept from each other, which includes historical ids: any legal characters
// but colon and NUL, even none.
// https://spec.matrix.org/v1.16/appendices/#historical-user-ids
func ParseUserID(s string) (UserID, error) {
	if len(s) > maxID {
		return "", errors.New("user id is longer than 255 bytes")
	}
	local, server, ok := strings.Cut(s, ":")
	if !ok || !strings.HasPrefix(local, "@") || strings.IndexByte(local, 0) >= 0 || !utf8.ValidString(local) {
		return "", fmt.Errorf("%.64q is not a user id", s)
	}
	if !ValidServerName(server) {
		return "", fmt.Errorf("%.64q does not name a server", s)
	}
	return UserID(s), nil
}

// ValidKeyID checks the grammar of the id of a server's signing key: "ed25519:abc_1".
// https://spec.matrix.org/v1.16/server-server-api/#get_matrixkeyv2server
func ValidKeyID(s string) bool {
	version, ok := strings.CutPrefix(s, "ed25519:")
	return ok && version != "" && len(version) <= 64 && !strings.ContainsFunc(version, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}

// ValidServerName checks the grammar: a DNS name, an IPv4 address or an IPv6 address in brackets, and an optional port.
// https://spec.matrix.org/v1.16/appendices/#server-name
func ValidServerName(s string) bool {
	host, port, hasPort := s, "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		addr, err := netip.ParseAddr(s[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return false
		}
		if host, port = "", s[end+1:]; port == "" {
			return true
		}
		if port[0] != ':' {
			return false
		}
		return digits(port[1:], 5)
	}
	host, port, hasPort = strings.Cut(s, ":")
	if hasPort && !digits(port, 5) || host == "" || len(host) > 255 {
		return false
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func digits(s string, most int) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= most
}
