package access

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slackerd/slacker/block"
)

// Permission is a set of what may be done.
type Permission uint8

// The permissions. Admin holds all others; write and clone hold read.
const (
	Read  Permission = 1 << iota
	Write Permission = 1<<iota | Read
	Clone Permission = 1<<iota | Read
	Admin Permission = 1<<iota | Read | Write | Clone
)

var permissions = []struct {
	name string
	bits Permission
}{{"admin", Admin}, {"write", Write}, {"clone", Clone}, {"read", Read}}

// String names the permissions as a rule does.
func (p Permission) String() string {
	var names []string
	for rest, i := p, 0; i < len(permissions) && rest != 0; i++ {
		if q := permissions[i]; p&q.bits == q.bits && rest&q.bits != 0 {
			names = append(names, q.name)
			rest &^= q.bits
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, "+")
}

// Everything is the glob of all volumes, and of the server as a whole.
const Everything = "**"

// Bounds of rules.
const (
	maxRuleBytes = 4096
	maxRules     = 4096
)

// Rule gives permissions to identities for volumes.
type Rule struct {
	text    string
	holds   func(Identity) bool
	grants  Permission
	whole   bool // VOLUMES is Everything
	volumes *regexp.Regexp
}

const ruleWanted = "want IDENTITY PERMISSIONS VOLUMES, such as \"cn=worker-* read+clone images/**\""

// ParseRule reads one rule.
func ParseRule(text string) (Rule, error) {
	bad := func(format string, args ...any) (Rule, error) {
		err := block.Errorf(block.Invalid, format, args...)
		return Rule{}, block.Errorf(block.Invalid, "access rule %.100q: %w: %s", text, err, ruleWanted)
	}
	parts := strings.Fields(text)
	if len(parts) != 3 || len(text) > maxRuleBytes || !utf8.ValidString(text) {
		return bad("it has %d parts in %d bytes", len(parts), len(text))
	}
	r := Rule{text: text, volumes: glob(parts[2]), whole: parts[2] == Everything}
	for name := range strings.SplitSeq(parts[1], "+") {
		i := slices.IndexFunc(permissions, func(p struct {
			name string
			bits Permission
		}) bool {
			return p.name == name
		})
		if i < 0 {
			return bad("permission %q: want read, write, clone or admin", name)
		}
		r.grants |= permissions[i].bits
	}
	var ok bool
	if r.holds, ok = parseIdentity(parts[0]); !ok {
		return bad("identity %q: want cn=GLOB, uri=GLOB, uid=N, gid=N, anonymous or any", parts[0])
	}
	return r, nil
}

func parseIdentity(s string) (holds func(Identity) bool, ok bool) {
	switch s {
	case "any":
		return func(Identity) bool { return true }, true
	case "anonymous":
		return Identity.Anonymous, true
	}
	what, value, _ := strings.Cut(s, "=")
	if value == "" {
		return nil, false
	}
	n, err := strconv.ParseUint(value, 10, 32)
	is := uint32(n)
	pattern := glob(value)
	switch what {
	case "cn":
		return func(id Identity) bool { return id.kind == certificate && id.cn != "" && pattern.MatchString(id.cn) }, true
	case "uri":
		return func(id Identity) bool { return slices.ContainsFunc(id.uris, pattern.MatchString) }, true
	case "uid":
		return func(id Identity) bool { return id.kind == unixUser && id.uid == is }, err == nil
	case "gid":
		return func(id Identity) bool { return id.kind == unixUser && id.gid == is }, err == nil
	}
	return nil, false
}

// glob compiles a pattern that stands for the whole of a text.
func glob(s string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for len(s) > 0 {
		_, n := utf8.DecodeRuneInString(s)
		switch {
		case strings.HasPrefix(s, "**"):
			b.WriteString(".*")
			n = 2
		case s[0] == '*':
			b.WriteString("[^/]*")
		case s[0] == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(s[:n]))
		}
		s = s[n:]
	}
	return regexp.MustCompile(b.String() + `\z`)
}

// Policy is the rules of a server. A nil Policy allows everything to everybody
// who can connect. It is immutable.
type Policy struct{ rules []Rule }

// ParsePolicy reads rules; none gives a nil Policy.
func ParsePolicy(texts []string) (*Policy, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if len(texts) > maxRules {
		return nil, block.Errorf(block.Invalid, "%d access rules: want at most %d", len(texts), maxRules)
	}
	p := &Policy{}
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

// granted returns what the rules together give (A2). The empty volume is the
// server as a whole.
func (p *Policy) granted(id Identity, volume string) (g Permission) {
	for _, r := range p.rules {
		if r.holds(id) && (r.whole || volume != "" && r.volumes.MatchString(volume)) {
			g |= r.grants
		}
	}
	return g
}

// May reports whether id may do want with a volume.
func (p *Policy) May(id Identity, want Permission, volume string) bool {
	return p == nil || p.granted(id, volume)&want == want
}

// Check is nil, or an error of kind Permission that says who wanted what (A3).
// target is VOLUME, VOLUME@SNAPSHOT, or empty for the server as a whole.
func (p *Policy) Check(id Identity, want Permission, target string) error {
	volume, _, _ := strings.Cut(target, "@")
	if p.May(id, want, volume) {
		return nil
	}
	what := "the server as a whole (rules for " + Everything + ")"
	if volume != "" {
		what = "volume " + volume
	}
	return block.Errorf(block.Permission, "%s may not %s %s: it has %s there", id, want, what, p.granted(id, volume))
}

// CheckKnown is nil when any rule holds for id.
func (p *Policy) CheckKnown(id Identity) error {
	if p == nil || slices.ContainsFunc(p.rules, func(r Rule) bool { return r.holds(id) }) {
		return nil
	}
	return block.Errorf(block.Permission, "%s may do nothing here: no access rule holds for it", id)
}
