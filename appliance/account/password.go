// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime/debug"
	"strings"

	"golang.org/x/crypto/argon2"
)

const keyLength = 32

// maxPassword bounds what a stranger can make us hash.
const maxPassword = 512

// hashPassword gives the PHC form of argon2id, which carries its own cost so that the cost may change later.
func (a *Accounts) hashPassword(password string) string {
	salt := make([]byte, 16)
	rand.Read(salt) // never fails since Go 1.24
	defer a.hash()()
	return a.opt.Cost.phc(salt, argon2.IDKey([]byte(password), salt, a.opt.Cost.Passes, a.opt.Cost.MemoryKiB, 1, keyLength))
}

// hash waits for its turn; the caller ends it. The 19 MiB go back to the machine at once: left to the collector, a few logins in a row
// triple the memory of a small box, and it stays that way until the next collection.
func (a *Accounts) hash() (end func()) {
	a.hashing <- struct{}{}
	return func() {
		debug.FreeOSMemory()
		<-a.hashing
	}
}

func (c Cost) phc(salt, sum []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, c.MemoryKiB, c.Passes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

// noPassword is a hash that no password is known for. It costs as much to check as a real one and nothing to make.
func (c Cost) noPassword() string {
	b := make([]byte, 16+keyLength)
	rand.Read(b)
	return c.phc(b[:16], b[16:])
}

// checkPassword compares in constant work: an empty hash (no such user, no password) is checked against a dummy and fails.
func (a *Accounts) checkPassword(hash, password string) bool {
	known := hash != ""
	if !known {
		hash = a.dummy
	}
	if len(password) > maxPassword {
		return false
	}
	version, memory, passes, salt, want, ok := parsePHC(hash)
	if !ok || version != argon2.Version {
		return false
	}
	defer a.hash()()
	got := argon2.IDKey([]byte(password), salt, passes, memory, 1, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && known
}

// parsePHC reads what hashPassword wrote; it refuses costs that would take the box's memory.
func parsePHC(s string) (version int, memory, passes uint32, salt, sum []byte, ok bool) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return
	}
	if n, err := fmt.Sscanf(parts[2], "v=%d", &version); n != 1 || err != nil {
		return
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &memory, &passes); n != 2 || err != nil {
		return
	}
	if memory > 1<<18 || passes == 0 || passes > 64 {
		return
	}
	var err error
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(salt) < 8 {
		return
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(sum) < 16 || len(sum) > 64 {
		return
	}
	return version, memory, passes, salt, sum, true
}

// randomString gives n characters of 5 bits each, free of look-alikes, for tokens, device ids and codes.
func randomString(n int) string {
	const alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b)
}

// newToken gives 160 bits, with a prefix that tells a person reading a log what must not stand there.
func newToken(prefix string) string { return prefix + "_" + randomString(32) }

func tokenHash(token string) [32]byte { return sha256.Sum256([]byte(token)) }
