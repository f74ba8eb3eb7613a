package config

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errValue says only that a value is not what its setting wants.
var errValue = errors.New("not what is wanted")

var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1024 * gib}, {"GiB", gib}, {"MiB", mib}, {"KiB", kib}, {"B", 1}}

// parseBytes reads a size: a whole number and a unit, bytes without one.
func parseBytes(s string) (int64, error) {
	factor := int64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSpace(number), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, errValue
	}
	return n * factor, nil
}

func putBytes(p *int64, s string, least, most, multiple int64) error {
	n, err := parseBytes(s)
	if err != nil || n < least || n > most || n%multiple != 0 {
		return errValue
	}
	*p = n
	return nil
}

func putInt(p *int64, s string, least, most int64) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		return errValue
	}
	*p = n
	return nil
}

func putDuration(p *time.Duration, s string, least, most time.Duration) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most {
		return errValue
	}
	*p = d
	return nil
}

func putBool(p *bool, s string) error {
	switch s {
	case "true":
		*p = true
	case "false":
		*p = false
	default:
		return errValue
	}
	return nil
}

func putOneOf(p *string, s string, of ...string) error {
	if !slices.Contains(of, s) {
		return errValue
	}
	*p = s
	return nil
}

// maxPathBytes is the limit of the operating system (PATH_MAX).
const maxPathBytes = 4095

func putPath(p *string, s string) error {
	if !filepath.IsAbs(s) || len(s) > maxPathBytes || strings.ContainsRune(s, 0) {
		return errValue
	}
	*p = filepath.Clean(s)
	return nil
}

// putOptionalPath is putPath for what may be left empty.
func putOptionalPath(p *string, s string) error {
	if s == "" {
		*p = ""
		return nil
	}
	return putPath(p, s)
}

// maxAddresses bounds the addresses of one kind.
const maxAddresses = 64

func putAddresses(p *[]Address, values []string) error {
	if len(values) == 0 || len(values) > maxAddresses {
		return errValue
	}
	addresses := make([]Address, 0, len(values))
	for _, v := range values {
		a, err := ParseAddress(v)
		if err != nil {
			return err
		}
		if slices.Contains(addresses, a) && !a.AnyPort() {
			return errors.New(strconv.Quote(v) + " is there twice")
		}
		addresses = append(addresses, a)
	}
	*p = addresses
	return nil
}
