package main

import (
	"math/big"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/slackerd/slacker/block"
)

const sizeWanted = "want a number and a unit, for example 10GiB (1024s) or 512MB (1000s)"

// maxSizeText bounds the text of a size.
const maxSizeText = 40

// parseSize reads a size of a volume as humanize writes units (GiB and Gi are
// 1024s, GB and G are 1000s, upper or lower case), but exactly.
func parseSize(what, s string) (uint64, error) {
	number := strings.TrimLeft(s, "0123456789.")
	unit := strings.ToLower(strings.TrimSpace(number))
	number = strings.TrimSuffix(s, number)
	// humanize knows the units; of one of a unit its answer is exact.
	factor, err := humanize.ParseBytes("1" + unit)
	value, ok := new(big.Rat).SetString(number)
	if len(s) > maxSizeText || err != nil || !ok || strings.ContainsAny(unit, "0123456789.,+-_") {
		return 0, block.Errorf(block.Invalid, "%s: size %.*q: %s", what, maxSizeText, s, sizeWanted)
	}
	value.Mul(value, new(big.Rat).SetInt(new(big.Int).SetUint64(factor)))
	if value.Sign() == 0 || value.Cmp(new(big.Rat).SetUint64(block.MaxVolumeBytes)) > 0 {
		return 0, block.Errorf(block.Invalid, "%s: size %q: want 4KiB to 256TiB", what, s)
	}
	units := value.Mul(value, big.NewRat(1, block.Size))
	if units.IsInt() {
		return units.Num().Uint64() * block.Size, nil
	}
	above := new(big.Int).Quo(units.Num(), units.Denom()).Uint64()*block.Size + block.Size
	hint := ""
	if len(unit) == 1 && unit != "b" || len(unit) == 2 && unit[1] == 'b' {
		hint = "; " + number + strings.ToUpper(unit[:1]) + "iB is a power of two"
	}
	return 0, block.Errorf(block.Invalid, "%s: size %q is no multiple of %d bytes: want one; the next is %d%s", what, s, block.Size, above, hint)
}

// bytesText writes a size for people.
func bytesText(n uint64) string { return humanize.IBytes(n) }
