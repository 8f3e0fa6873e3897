// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"

	"hallig/sync/peer"
)

// A bag is what one box and its hub have for each other on a stick: one file, WRITER-READER-a.bag or -b.bag with their brief ids, written anew with each visit into the place that is not in force. Of the two the valid one with
// the higher serial counts. Integers are big-endian:
//
//	magic writer(32) reader(32) serial(8) { length(4) sealed part }*
//
// The head is for programs that cannot open anything; nothing in it counts. A part is encrypted to its reader with age; the first and the last one to the writer as well, who can say so what lies on a stick. Within:
//
//	magic writer(32) reader(32) serial(8) number(4) end(1) gzip(body) signature(64)
//
// The signature is the writer's over a context string and all before it. So parts of one bag cannot stand in another, in another order, or be missing in the middle; a bag that breaks off is good up to there.
const (
	bagMagic    = "hallig bag 1\n"
	partMagic   = "hallig bag part 1\n"
	partContext = "hallig courier bag part 1\x00"

	// MaxPart bounds the body of a part, in bytes.
	MaxPart = 8<<20 - 8<<10
	// MaxBag bounds a bag's file, in bytes.
	MaxBag = 2 << 30

	maxParts  = 1 << 16
	maxSerial = 1 << 52
	bagHead   = len(bagMagic) + 32 + 32 + 8
)

// What may be wrong with a bag, beside errors of reading.
var (
	ErrBagForged  = errors.New("it was not written by the one whose name it bears")
	ErrBagDamaged = errors.New("it is damaged, or breaks off")
	ErrBagForeign = errors.New("it is for somebody else")
)

// BagWriter writes one bag. It is used by one goroutine.
type BagWriter struct {
	w      io.Writer
	key    ed25519.PrivateKey
	head   []byte // writer, reader, serial: in each part
	self   age.Recipient
	reader age.Recipient
	number uint32
	size   int64
}

// NewBagWriter begins a bag of the holder of key.
func NewBagWriter(w io.Writer, key ed25519.PrivateKey, reader peer.ID, serial int64) (*BagWriter, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	to, err := reader.Key()
	if err != nil || !ok || serial < 1 || serial > maxSerial {
		return nil, errors.Join(errors.New("begin bag: no key, or no serial"), err)
	}
	b := &BagWriter{w: w, key: key, head: binary.BigEndian.AppendUint64(append(append([]byte{}, public...), to...), uint64(serial))}
	if b.self, err = recipient(public); err != nil {
		return nil, err
	}
	if b.reader, err = recipient(to); err != nil {
		return nil, err
	}
	return b, b.write([]byte(bagMagic), b.head)
}

func (b *BagWriter) write(parts ...[]byte) error {
	for _, p := range parts {
		n, err := b.w.Write(p)
		b.size += int64(n)
		if err != nil {
			return fmt.Errorf("write bag: %w", err)
		}
	}
	return nil
}

// Size is how many bytes were written.
func (b *BagWriter) Size() int64 { return b.size }

// Part writes the next part.
func (b *BagWriter) Part(body []byte) error { return b.part(body, false) }

// End writes the last part; nothing may follow.
func (b *BagWriter) End(body []byte) error { return b.part(body, true) }

func (b *BagWriter) part(body []byte, end bool) error {
	if len(body) > MaxPart || b.number >= maxParts {
		return fmt.Errorf("write bag: part %d of %d bytes is more than a bag holds", b.number, len(body))
	}
	plain := binary.BigEndian.AppendUint32(append([]byte(partMagic), b.head...), b.number)
	plain = append(plain, 0)
	to := []age.Recipient{b.reader}
	if end {
		plain[len(plain)-1] = 1
	}
	if end || b.number == 0 {
		to = append(to, b.self)
	}
	b.number++
	packed := bytes.NewBuffer(plain)
	z := gzip.NewWriter(packed)
	_, err := z.Write(body)
	if err = errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("pack part of a bag: %w", err)
	}
	plain = packed.Bytes()
	plain = append(plain, ed25519.Sign(b.key, append([]byte(partContext), plain...))...)
	sealed, err := encryptTo(plain, to...)
	if err != nil {
		return err
	}
	return b.write(binary.BigEndian.AppendUint32(nil, uint32(len(sealed))), sealed)
}

// BagReader reads one bag. It is used by one goroutine.
type BagReader struct {
	Writer, Reader peer.ID // as the head says
	Serial         int64

	r      io.Reader
	head   []byte
	id     age.Identity
	number uint32
	ended  bool
}

// ReadBag reads the head of a bag.
func ReadBag(r io.Reader) (*BagReader, error) {
	head := make([]byte, bagHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, broken(err)
	}
	rest, ok := bytes.CutPrefix(head, []byte(bagMagic))
	serial := binary.BigEndian.Uint64(head[bagHead-8:])
	if !ok || serial < 1 || serial > maxSerial {
		return nil, fmt.Errorf("read bag: %w", ErrBagDamaged)
	}
	return &BagReader{Writer: peer.IDOf(rest[:32]), Reader: peer.IDOf(rest[32:64]), Serial: int64(serial), r: r, head: rest}, nil
}

// broken makes a bag that ends too soon one that is damaged.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrBagDamaged
	}
	return fmt.Errorf("read bag: %w", err)
}

// Open says who reads: the holder of key must be the reader, or for Ends the writer. writer is who must have written it.
func (b *BagReader) Open(key ed25519.PrivateKey, writer peer.ID) (err error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return errors.New("open bag: no key")
	}
	switch self := peer.IDOf(public); {
	case self != b.Reader && self != b.Writer:
		return fmt.Errorf("open bag: %w", ErrBagForeign)
	case b.Writer != writer:
		return fmt.Errorf("open bag: %w", ErrBagForged)
	}
	b.id, err = identity(key)
	return err
}

// Next gives the body of the next part, which is the end if end is set. After that, and after an error, nothing follows.
func (b *BagReader) Next() (body []byte, end bool, err error) {
	if b.ended {
		return nil, false, io.EOF
	}
	b.ended = true // unless it goes well
	sealed, err := b.frame()
	if err != nil {
		return nil, false, err
	}
	if body, end, err = b.unseal(sealed, b.number); err != nil {
		return nil, false, err
	}
	b.number++
	b.ended = end
	return body, end, nil
}

// frame reads a part as it is.
func (b *BagReader) frame() ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(b.r, length[:]); err != nil {
		return nil, broken(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxSegment {
		return nil, fmt.Errorf("read bag: %w", ErrBagDamaged)
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(b.r, sealed); err != nil {
		return nil, broken(err)
	}
	return sealed, nil
}

func (b *BagReader) unseal(sealed []byte, number uint32) (body []byte, end bool, err error) {
	plain, err := decrypt(sealed, b.id)
	if err != nil {
		return nil, false, fmt.Errorf("open part of a bag: %w", ErrBagDamaged)
	}
	cut := len(plain) - ed25519.SignatureSize
	key, err := b.Writer.Key()
	if err != nil || cut < 0 || !ed25519.Verify(key, append([]byte(partContext), plain[:cut]...), plain[cut:]) {
		return nil, false, fmt.Errorf("open part of a bag: %w", ErrBagForged)
	}
	want := binary.BigEndian.AppendUint32(append([]byte(partMagic), b.head...), number)
	packed, ok := bytes.CutPrefix(plain[:cut], want)
	if !ok || len(packed) < 1 || packed[0] > 1 {
		return nil, false, fmt.Errorf("open part of a bag: %w", ErrBagDamaged)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed[1:]))
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(z, MaxPart+1))
	}
	if err != nil || len(body) > MaxPart {
		return nil, false, fmt.Errorf("unpack part of a bag: %w", ErrBagDamaged)
	}
	return body, packed[0] == 1, nil
}

// Ends gives the bodies of the first and the last part, which the writer can read as well; what is between is passed over.
func (b *BagReader) Ends() (first, last []byte, err error) {
	var n uint32
	var sealed []byte
	for ; ; n++ {
		next, err := b.frame()
		if errors.Is(err, ErrBagDamaged) && sealed != nil {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if sealed = next; n == 0 {
			if first, _, err = b.unseal(sealed, 0); err != nil {
				return nil, nil, err
			}
		}
		if n > maxParts {
			return nil, nil, fmt.Errorf("read bag: %w", ErrBagDamaged)
		}
	}
	last, end, err := b.unseal(sealed, n-1)
	if err == nil && !end {
		err = fmt.Errorf("read bag: %w", ErrBagDamaged)
	}
	return first, last, err
}

// BagFile is a bag on a stick, by its head, of which nothing counts.
type BagFile struct {
	Name           string
	Writer, Reader peer.ID
	Serial         int64
	Size           int64 // bytes
}

const mostNames = 20_000

// Bags lists what looks like a bag, the newest first.
func Bags(d Disk) ([]BagFile, error) {
	names, err := d.Names(mostNames)
	if err != nil {
		return nil, fmt.Errorf("look at the stick: %w", err)
	}
	var out []BagFile
	for _, name := range names {
		if len(name) != len("0123456789abcdef-0123456789abcdef-a.bag") || name[16] != '-' || name[33:35] != "-a" && name[33:35] != "-b" || name[35:] != ".bag" {
			continue
		}
		if f, err := bagFile(d, name); err == nil {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b BagFile) int {
		if a.Serial != b.Serial {
			return int(max(-1, min(1, b.Serial-a.Serial)))
		}
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	return out, nil
}

// bagFile reads the head of a file; it must be where such a bag lies.
func bagFile(d Disk, name string) (f BagFile, err error) {
	r, size, err := d.Open(name, MaxBag)
	if err != nil {
		return f, err
	}
	defer r.Close()
	b, err := ReadBag(r)
	if err != nil {
		return f, err
	}
	if name != bagName(b.Writer, b.Reader, 0) && name != bagName(b.Writer, b.Reader, 1) {
		return f, ErrBagDamaged
	}
	return BagFile{Name: name, Writer: b.Writer, Reader: b.Reader, Serial: b.Serial, Size: size}, nil
}

func bagName(writer, reader peer.ID, slot int) string {
	return brief(writer) + "-" + brief(reader) + "-" + string("ab"[slot&1]) + ".bag"
}

// Stow puts a bag onto a stick, in the place that is not in force; the other one goes when it is there. write is given the room in bytes, of which it may use all, and the serial that the new one must exceed; whole says that all went
// in. When it did not, and an older bag was there, it is written once more with the room of that one. A stick that is pulled meanwhile has the older bag, or the new one.
func Stow(d Disk, writer, reader peer.ID, write func(w io.Writer, room, after int64) (whole bool, err error)) error {
	if err := explain(d, writer); err != nil {
		return err
	}
	for range 2 {
		var old [2]*BagFile
		slot, after := 0, int64(0)
		for i := range old {
			if f, err := bagFile(d, bagName(writer, reader, i)); err == nil {
				if old[i] = &f; f.Serial > after {
					slot, after = 1-i, f.Serial
				}
			}
		}
		if err := clearBag(d, bagName(writer, reader, slot)); err != nil { // what is not in force
			return err
		}
		free, err := d.Free()
		if err != nil {
			return err
		}
		whole, err := stow(d, writer, bagName(writer, reader, slot), min(free-spare, MaxBag), after, write)
		if err != nil {
			return err
		}
		if err := clearBag(d, bagName(writer, reader, 1-slot)); err != nil {
			return err
		}
		if whole || old[1-slot] == nil {
			return nil
		}
	}
	return nil
}

func clearBag(d Disk, name string) error {
	if err := d.Remove(name); err != nil {
		if isAbsent(err) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return d.Sync()
}

func stow(d Disk, writer peer.ID, name string, room, after int64, write func(w io.Writer, room, after int64) (bool, error)) (whole bool, err error) {
	if room < int64(bagHead) {
		return false, errFull
	}
	tmp := brief(writer) + "-bag.tmp"
	f, err := d.Create(tmp)
	if err != nil {
		return false, fmt.Errorf("write %s: %w", name, err)
	}
	whole, err = write(f, room, after)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(tmp, name)
	} else {
		err = errors.Join(err, d.Remove(tmp))
	}
	if err == nil {
		err = d.Sync()
	}
	if err != nil {
		return false, fmt.Errorf("write %s: %w", name, err)
	}
	return whole, nil
}

// IsFull and IsReadOnly say why a stick takes nothing more.
func IsFull(err error) bool     { return isFull(err) }
func IsReadOnly(err error) bool { return isReadOnly(err) }

// NextSerial gives the serial of a bag: the time in milliseconds, but above all that are known.
func NextSerial(unixMilli int64, known ...int64) int64 {
	n := max(1, unixMilli)
	for _, k := range known {
		if k < maxSerial {
			n = max(n, k+1)
		}
	}
	return n
}
