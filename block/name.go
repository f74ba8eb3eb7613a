package block

import "strings"

const nameWanted = "want 1 to 128 bytes of letters, digits, '.', '_', '-', beginning with a letter or digit"

// CheckVolumeName refuses what is no volume name: parts of letters, digits,
// '.', '_' and '-' that begin with a letter or digit, joined by '/', at most
// MaxNameBytes in all.
func CheckVolumeName(name string) error {
	if len(name) == 0 || len(name) > MaxNameBytes {
		return Errorf(Invalid, "volume name %.40q has %d bytes: %s, parts joined by '/'", name, len(name), nameWanted)
	}
	for part := range strings.SplitSeq(name, "/") {
		if !plainName(part) {
			return Errorf(Invalid, "volume name %q: %s, parts joined by '/'", name, nameWanted)
		}
	}
	return nil
}

// CheckSnapshotName refuses what is no snapshot name (the part after '@').
func CheckSnapshotName(name string) error {
	if len(name) > MaxNameBytes || !plainName(name) {
		return Errorf(Invalid, "snapshot name %.140q: %s", name, nameWanted)
	}
	return nil
}

// SplitSnapshot splits VOLUME@SNAPSHOT and checks both parts.
func SplitSnapshot(s string) (volume, snapshot string, err error) {
	volume, snapshot, ok := strings.Cut(s, "@")
	if !ok {
		return "", "", Errorf(Invalid, "%q names no snapshot: want VOLUME@SNAPSHOT", s)
	}
	if err := CheckVolumeName(volume); err != nil {
		return "", "", err
	}
	if err := CheckSnapshotName(snapshot); err != nil {
		return "", "", err
	}
	return volume, snapshot, nil
}

func plainName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return s != ""
}
