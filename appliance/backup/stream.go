// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// parts writes a stream into files of limited size, each flushed when it is full.
type parts struct {
	dir   string
	name  func(i int) string
	limit int64
	done  []Piece

	file *os.File
	size int64
	sum  hash.Hash
}

func (p *parts) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if p.file == nil {
			f, err := os.OpenFile(filepath.Join(p.dir, p.name(len(p.done))), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return n, err
			}
			p.file, p.size, p.sum = f, 0, sha256.New()
		}
		m, err := p.file.Write(b[:min(int64(len(b)), p.limit-p.size)])
		p.sum.Write(b[:m])
		p.size += int64(m)
		n, b = n+m, b[m:]
		if err != nil {
			return n, err
		}
		if p.size == p.limit {
			if err := p.next(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// next ends the present file. Its pages are let go of, so that reading it back reads the medium.
func (p *parts) next() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Sync()
	_ = unix.Fadvise(int(p.file.Fd()), 0, 0, unix.FADV_DONTNEED) // where it is not known, the copy in memory is compared
	p.done = append(p.done, Piece{Name: filepath.Base(p.file.Name()), Size: p.size, SHA256: hex.EncodeToString(p.sum.Sum(nil))})
	err = errors.Join(err, p.file.Close())
	p.file = nil
	return err
}

// partReader reads the parts of a stream one after the other and checks what they are said to be.
type partReader struct {
	dir  string
	left []Piece

	file *os.File
	size int64
	sum  hash.Hash
}

func (p *partReader) Read(b []byte) (int, error) {
	for {
		if p.file == nil {
			if len(p.left) == 0 {
				return 0, io.EOF
			}
			f, err := os.Open(filepath.Join(p.dir, p.left[0].Name))
			if err != nil {
				return 0, err
			}
			p.file, p.size, p.sum = f, 0, sha256.New()
		}
		n, err := p.file.Read(b)
		p.sum.Write(b[:n])
		p.size += int64(n)
		if n > 0 {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return 0, err
		}
		want := p.left[0]
		if err := p.Close(); err != nil {
			return 0, err
		}
		if got := hex.EncodeToString(p.sum.Sum(nil)); p.size != want.Size || want.SHA256 != "" && got != want.SHA256 {
			return 0, fmt.Errorf("%s is not what was written: the medium is damaged, or somebody has changed it", want.Name)
		}
		p.left = p.left[1:]
	}
}

func (p *partReader) Close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}

// sealed is a tar stream inside age, compressed or not.
type sealed struct {
	*tar.Writer
	closers []io.Closer
}

func seal(w io.Writer, to []age.Recipient, compress bool) (*sealed, error) {
	enc, err := age.Encrypt(w, to...)
	if err != nil {
		return nil, fmt.Errorf("encrypt backup: %w", err)
	}
	s := &sealed{closers: []io.Closer{enc}}
	if compress {
		z, err := zstd.NewWriter(enc, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("compress backup: %w", err)
		}
		s.closers = append(s.closers, z)
		s.Writer = tar.NewWriter(z)
	} else {
		buf := bufio.NewWriterSize(enc, 64<<10)
		s.closers = append(s.closers, flusher{buf})
		s.Writer = tar.NewWriter(buf)
	}
	s.closers = append(s.closers, s.Writer)
	return s, nil
}

type flusher struct{ *bufio.Writer }

func (f flusher) Close() error { return f.Flush() }

// Close ends all layers, the innermost first.
func (s *sealed) Close() error {
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].Close(); err != nil {
			return err
		}
	}
	return nil
}

// opened reads what seal wrote. It is at its end only when the age stream is.
type opened struct {
	tar   *tar.Reader
	plain io.Reader // under the tar: to be read to the end
	z     *zstd.Decoder
	raw   io.Reader // under zstd
}

func unseal(r io.Reader, ids []age.Identity, compressed bool) (*opened, error) {
	dec, err := age.Decrypt(r, ids...)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return nil, ErrWrongKey
		}
		return nil, fmt.Errorf("decrypt backup: %w", err)
	}
	o := &opened{plain: dec, raw: dec}
	if compressed {
		if o.z, err = zstd.NewReader(dec, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
			return nil, fmt.Errorf("decompress backup: %w", err)
		}
		o.plain = o.z
	}
	o.tar = tar.NewReader(o.plain)
	return o, nil
}

// ErrWrongKey says that the backup was made for other keys.
var ErrWrongKey = errors.New("this key does not open the backup: it was encrypted for another one")

// next gives the next file; io.EOF only after the whole stream has proven to be complete.
func (o *opened) next() (*tar.Header, error) {
	h, err := o.tar.Next()
	if errors.Is(err, io.EOF) {
		for _, r := range []io.Reader{o.plain, o.raw} {
			if n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
				return nil, fmt.Errorf("read backup to its end: %w", err)
			} else if n == 1<<20 {
				return nil, errors.New("read backup to its end: something follows it")
			}
		}
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || filepath.Clean(h.Name) != h.Name || h.Size < 0 {
		return nil, fmt.Errorf("read backup: %q is not what a backup holds", h.Name)
	}
	return h, nil
}

func (o *opened) Close() {
	if o.z != nil {
		o.z.Close()
	}
}

// copyContext copies until ctx ends.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m, rerr := r.Read(buf)
		if m > 0 {
			if _, err := w.Write(buf[:m]); err != nil {
				return n, err
			}
			n += int64(m)
		}
		if errors.Is(rerr, io.EOF) {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}
