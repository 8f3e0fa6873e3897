// SPDX-License-Identifier: EUPL-1.2

// Package vault keeps a partition of a box unreadable for a thief: what is written to it is encrypted, and the key lies on a stick that is
// pulled after the start, or in a code that a person types. The kernels of the x86 and generic ARM images have no encryption of their own (no
// dm-crypt, no fscrypt), so the encrypting is done here, and the kernel reaches it through FUSE and a loop device, with an ext4 on top.
//
// On the partition lie two copies of a Header of 64 KiB each, then, from the first MiB on, sectors of 512 bytes under AES-256-XTS with the
// sector's number as tweak. XTS adds no byte and no check: a sector that a power cut has torn is torn in the same place for the reader as it is
// on a plain disk, which databases and file systems are made for. It hides contents; it does not notice changes by somebody who takes the disk out
// and puts it back. Nothing of the program or the kernel is encrypted or checked either.
//
// The master key never lies on the disk. Each Slot of the header holds it sealed (XChaCha20-Poly1305) under a key derived from what opens the
// slot: 32 random bytes in a file (HKDF), or a code (Argon2id). A header is changed by writing one copy, a flush, and then the other; the newest
// whole one counts, so that no power cut locks a box for good.
package vault

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	magic      = "HALLIGV1"
	headerSize = 64 << 10
	// DataStart is where the encrypted sectors begin, bytes.
	DataStart  = 1 << 20
	sectorSize = 512
	masterSize = 64 // two AES-256 keys
	cipherName = "aes-256-xts, sectors of 512 bytes"
	maxSlots   = 8

	// MinCode is how many letters and digits a code must have.
	MinCode = 16
)

// Errors of opening.
var (
	ErrNone   = errors.New("no vault on this partition")
	ErrClosed = errors.New("this key or code does not open the vault")
)

// Slot is one way to the master key.
type Slot struct {
	Kind    string `json:"kind"` // "file" or "code"
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time,omitempty"`       // Argon2id: passes
	Memory  uint32 `json:"memory_kib,omitempty"` // Argon2id
	Threads uint8  `json:"threads,omitempty"`    // Argon2id
	Sealed  []byte `json:"sealed"`               // nonce and ciphertext of the master key
}

// Header says how to open a vault. It holds nothing secret.
type Header struct {
	ID         string `json:"id"` // 32 hexadecimal digits; key files name it
	Generation uint64 `json:"generation"`
	Cipher     string `json:"cipher"`
	Slots      []Slot `json:"slots"`
}

// Key is what opens a slot: the contents of a key file or a code.
type Key struct {
	file []byte
	code string
}

// NewKeyFile makes the text of a new key file for the vault with this id.
func NewKeyFile(id string) (string, Key) {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails, see crypto/rand
	return "hallig-key-1 " + id + " " + base64.StdEncoding.EncodeToString(raw) + "\n", Key{file: raw}
}

// ParseKeyFile reads a key file and the id of the vault that it is for.
func ParseKeyFile(text []byte) (id string, k Key, err error) {
	words := strings.Fields(string(text))
	if len(words) != 3 || words[0] != "hallig-key-1" || len(words[1]) != 32 {
		return "", k, errors.New("not a key file: want one line \"hallig-key-1 ID KEY\"")
	}
	if k.file, err = base64.StdEncoding.DecodeString(words[2]); err != nil || len(k.file) != 32 {
		return "", k, errors.New("the key file is damaged: its key is not 32 bytes of base64")
	}
	return words[1], k, nil
}

// Code makes a key of what a person typed. Case, spaces and hyphens do not count, and neither do the usual mistakes (O for 0, I and L for 1).
func Code(typed string) (Key, error) {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == 'O':
			return '0'
		case r == 'I' || r == 'L':
			return '1'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}, strings.ToUpper(typed))
	if len(clean) < MinCode {
		return Key{}, fmt.Errorf("the code has %d letters and digits; it needs at least %d, as a thief can try at leisure", len(clean), MinCode)
	}
	return Key{code: clean}, nil
}

func (s *Slot) open(k Key) ([]byte, error) {
	switch {
	case s.Kind == "file" && k.file != nil:
		return hkdf.Key(sha256.New, k.file, s.Salt, "hallig vault", chacha20poly1305.KeySize)
	case s.Kind == "code" && k.code != "":
		return argon2.IDKey([]byte(k.code), s.Salt, s.Time, s.Memory, s.Threads, chacha20poly1305.KeySize), nil
	}
	return nil, ErrClosed
}

func (k Key) slot(id string, master []byte) (Slot, error) {
	s := Slot{Kind: "file", Salt: make([]byte, 16)}
	rand.Read(s.Salt)
	if k.code != "" {
		s.Kind, s.Time, s.Memory, s.Threads = "code", 4, 64<<10, 2
	}
	key, err := s.open(k)
	if err != nil {
		return s, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return s, err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	s.Sealed = aead.Seal(nonce, nonce, master, []byte(id+s.Kind))
	return s, nil
}

// unseal gives the master key.
func (h *Header) unseal(k Key) ([]byte, error) {
	for _, s := range h.Slots {
		key, err := s.open(k)
		if err != nil {
			continue // another kind
		}
		aead, err := chacha20poly1305.NewX(key)
		if err != nil || len(s.Sealed) < aead.NonceSize() {
			continue
		}
		nonce, box := s.Sealed[:aead.NonceSize()], s.Sealed[aead.NonceSize():]
		if master, err := aead.Open(nil, nonce, box, []byte(h.ID+s.Kind)); err == nil && len(master) == masterSize {
			return master, nil
		}
	}
	return nil, ErrClosed
}

// Make writes a new vault; whatever the partition held is lost. id comes from NewID, so that key files can be written before; one slot is made of
// each key.
func Make(w io.WriterAt, sync func() error, id string, keys ...Key) error {
	if len(keys) == 0 || len(keys) > maxSlots {
		return fmt.Errorf("make vault: %d keys; want 1 to %d", len(keys), maxSlots)
	}
	master := make([]byte, masterSize)
	rand.Read(master)
	h := Header{ID: id, Generation: 1, Cipher: cipherName}
	for _, k := range keys {
		s, err := k.slot(id, master)
		if err != nil {
			return fmt.Errorf("make vault: %w", err)
		}
		h.Slots = append(h.Slots, s)
	}
	return h.write(w, sync)
}

// NewID makes the id of a new vault.
func NewID() string {
	raw := make([]byte, 16)
	rand.Read(raw)
	return fmt.Sprintf("%x", raw)
}

func (h *Header) write(w io.WriterAt, sync func() error) error {
	raw, err := h.encode()
	if err != nil {
		return fmt.Errorf("write vault header: %w", err)
	}
	for _, at := range []int64{0, headerSize} {
		if _, err := w.WriteAt(raw, at); err != nil {
			return fmt.Errorf("write vault header: %w", err)
		}
		if err := sync(); err != nil {
			return fmt.Errorf("flush vault header: %w", err)
		}
	}
	return nil
}

// encode gives the magic, the SHA-256 of what follows, the length of the JSON (4 bytes, little endian), the JSON, zeros.
func (h *Header) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, headerSize)
	const fixed = len(magic) + sha256.Size
	if fixed+4+len(text) > headerSize {
		return nil, errors.New("too many slots")
	}
	copy(raw, magic)
	binary.LittleEndian.PutUint32(raw[fixed:], uint32(len(text)))
	copy(raw[fixed+4:], text)
	sum := sha256.Sum256(raw[fixed:])
	copy(raw[len(magic):], sum[:])
	return raw, nil
}

func decode(raw []byte) (h Header, err error) {
	const fixed = len(magic) + sha256.Size
	if len(raw) != headerSize || !bytes.HasPrefix(raw, []byte(magic)) {
		return h, ErrNone
	}
	if sum := sha256.Sum256(raw[fixed:]); !bytes.Equal(sum[:], raw[len(magic):fixed]) {
		return h, errors.New("vault header: checksum does not match")
	}
	n := binary.LittleEndian.Uint32(raw[fixed:])
	if int64(n) > int64(headerSize-fixed-4) {
		return h, errors.New("vault header: length out of range")
	}
	if err := json.Unmarshal(raw[fixed+4:fixed+4+int(n)], &h); err != nil {
		return h, fmt.Errorf("vault header: %w", err)
	}
	if h.Cipher != cipherName {
		return h, fmt.Errorf("vault header: cipher %q is not known to this release; start a newer one", h.Cipher)
	}
	if len(h.Slots) == 0 || len(h.Slots) > maxSlots || len(h.ID) != 32 {
		return h, errors.New("vault header: no usable slot or id")
	}
	for _, s := range h.Slots {
		// A changed header must not make the box use up its memory or time.
		if s.Kind == "code" && (s.Time < 1 || s.Time > 64 || s.Memory < 8 || s.Memory > 1<<20 || s.Threads < 1 || s.Threads > 16) {
			return h, errors.New("vault header: parameters of a code out of range")
		}
	}
	return h, nil
}

// ReadHeader gives the newest whole header, ErrNone where there is no vault, and another error where there is one but no copy is whole.
func ReadHeader(r io.ReaderAt) (Header, error) {
	var best Header
	var found bool
	var trouble error = ErrNone
	for _, at := range []int64{0, headerSize} {
		raw := make([]byte, headerSize)
		if _, err := r.ReadAt(raw, at); err != nil {
			return best, fmt.Errorf("read vault header: %w", err)
		}
		h, err := decode(raw)
		switch {
		case err == nil && (!found || h.Generation > best.Generation):
			best, found = h, true
		case err != nil && !errors.Is(err, ErrNone):
			trouble = err
		}
	}
	if !found {
		return best, trouble
	}
	return best, nil
}
