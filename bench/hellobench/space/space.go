// Package space measures how much of an image set is the same and how well it
// compresses: whole images by gzip, as registries keep them; files that are alike;
// blocks of 4 KiB that are alike, as a block store could keep them once.
package space

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// blockBytes is the unit of block deduplication, from the start of each file.
const blockBytes = 4096

// Image is an image to look at.
type Image struct {
	Name  string
	Image v1.Image
}

// Sizes are bytes, by what is kept.
type Sizes struct {
	Name        string `json:"name,omitempty"`
	Layers      int    `json:"layers"`
	Files       int    `json:"files"`
	Whole       int64  `json:"whole"`        // content of all files
	Gzip        int64  `json:"gzip"`         // layers as the registry has them
	UniqueFiles int64  `json:"unique_files"` // content of different files
	UniqueBlock int64  `json:"unique_blocks"`
	UniqueZstd  int64  `json:"unique_blocks_zstd"` // each block by itself; the set only
}

// Result is what was found.
type Result struct {
	Images []Sizes `json:"images"`
	// Set is of all images: Whole counts layers as often as images have them, Gzip
	// each layer once, the rest each file and block of the set once.
	Set Sizes `json:"set"`
}

type hash [16]byte

type file struct {
	hash   hash
	bytes  int64
	blocks []hash
}

// layer is what is known of a layer. The last block of a file may be short.
type layer struct {
	digest v1.Hash
	gzip   int64
	files  []file
	zstd   map[hash]int32 // compressed size of its blocks
}

// Measure looks at all layers of the images, each once.
func Measure(ctx context.Context, images []Image, progress io.Writer) (*Result, error) {
	layers := map[v1.Hash]*layer{}
	var todo []v1.Layer
	of := map[string][]*layer{}
	for _, i := range images {
		all, err := i.Image.Layers()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		for _, l := range all {
			d, err := l.Digest()
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", i.Name, err)
			}
			if layers[d] == nil {
				layers[d] = &layer{digest: d}
				todo = append(todo, l)
			}
			of[i.Name] = append(of[i.Name], layers[d])
		}
	}
	if err := readAll(ctx, todo, layers, progress); err != nil {
		return nil, err
	}
	r := &Result{}
	for _, i := range images {
		s := count(of[i.Name], false)
		s.Name = i.Name
		r.Images = append(r.Images, s)
		r.Set.Whole += s.Whole
	}
	var all []*layer
	for _, l := range layers {
		all = append(all, l)
	}
	whole := r.Set.Whole
	r.Set = count(all, true)
	r.Set.Whole = whole
	return r, nil
}

func readAll(ctx context.Context, todo []v1.Layer, into map[v1.Hash]*layer, progress io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for n, l := range todo {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := l.Digest()
			if err != nil {
				return err
			}
			if err := into[d].read(ctx, l); err != nil {
				return fmt.Errorf("layer %s: %w", d, err)
			}
			_, err = fmt.Fprintf(progress, "hellobench: [%d/%d] layer %s read\n", n+1, len(todo), d.Hex[:12])
			return err
		})
	}
	return g.Wait()
}

func (l *layer) read(ctx context.Context, from v1.Layer) (err error) {
	if l.gzip, err = from.Size(); err != nil {
		return err
	}
	r, err := from.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	l.zstd = map[hash]int32{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.Size == 0 {
			continue
		}
		f, err := readFile(t, l.zstd, enc)
		if err != nil {
			return err
		}
		l.files = append(l.files, f)
	}
}

func readFile(r io.Reader, sizes map[hash]int32, enc *zstd.Encoder) (file, error) {
	var f file
	whole := sha256.New()
	block, packed := make([]byte, blockBytes), make([]byte, 0, 2*blockBytes)
	for {
		n, err := io.ReadFull(r, block)
		if n > 0 {
			whole.Write(block[:n])
			sum := sha256.Sum256(block[:n])
			h := hash(sum[:16])
			f.blocks = append(f.blocks, h)
			f.bytes += int64(n)
			if _, known := sizes[h]; !known {
				packed = enc.EncodeAll(block[:n], packed[:0])
				sizes[h] = int32(min(len(packed), n))
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			f.hash = hash(whole.Sum(nil)[:16])
			return f, nil
		}
		if err != nil {
			return f, err
		}
	}
}

// count adds layers up, each file and block once.
func count(layers []*layer, compressed bool) Sizes {
	var s Sizes
	files, blocks := map[hash]bool{}, map[hash]bool{}
	for _, l := range layers {
		s.Layers++
		s.Gzip += l.gzip
		for _, f := range l.files {
			s.Files++
			s.Whole += f.bytes
			if !files[f.hash] {
				files[f.hash] = true
				s.UniqueFiles += f.bytes
			}
			for n, h := range f.blocks {
				if blocks[h] {
					continue
				}
				blocks[h] = true
				s.UniqueBlock += min(blockBytes, f.bytes-int64(n)*blockBytes)
				if compressed {
					s.UniqueZstd += int64(l.zstd[h])
				}
			}
		}
	}
	return s
}
