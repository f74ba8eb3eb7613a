package images

import (
	_ "embed"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed files/busybox.sh
var busyboxScript string

// The layers that images share, as those of the original images do.
var (
	bookworm = &Layer{Base: "bookworm"}
	trixie   = &Layer{Base: "trixie"}
	bullseye = &Layer{Base: "bullseye"}

	// withCurl, withSCM and withBuild are what the language images of the
	// registry stand on: tools to fetch with, version control, compilers and the
	// headers of many libraries.
	withCurl  = bookworm.install("ca-certificates", "curl", "gnupg", "netbase", "wget")
	withSCM   = withCurl.install("git", "openssh-client", "procps")
	withBuild = withSCM.install("autoconf", "automake", "bzip2", "dpkg-dev", "file", "g++", "gcc", "libbz2-dev", "libc6-dev",
		"libcurl4-openssl-dev", "libdb-dev", "libevent-dev", "libffi-dev", "libgdbm-dev", "libglib2.0-dev", "libgmp-dev",
		"libjpeg-dev", "libkrb5-dev", "liblzma-dev", "libncurses-dev", "libpng-dev", "libpq-dev", "libreadline-dev",
		"libsqlite3-dev", "libssl-dev", "libtool", "libwebp-dev", "libxml2-dev", "libxslt1-dev", "libyaml-dev", "make", "patch",
		"unzip", "xz-utils", "zlib1g-dev")
	withJRE = withCurl.install("openjdk-17-jre-headless")
)

// path is the search path of containers.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// shell is the configuration of an image that runs a command.
func shell(cmd ...string) v1.Config {
	return v1.Config{Env: []string{path, "LANG=C.UTF-8"}, Cmd: cmd}
}

// All returns the recipes of all images, in HelloBench's order of categories.
func All() []*Recipe {
	var all []*Recipe
	for _, recipes := range [][]*Recipe{distributions(), databases(), languages(), webServers(), webFrameworks(), others(), compilers()} {
		all = append(all, recipes...)
	}
	return all
}

// Find returns the recipe of a name, or nil.
func Find(name string) *Recipe {
	for _, r := range All() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func distributions() []*Recipe {
	return []*Recipe{
		{
			Name: "busybox", VersionOf: "busybox-static", Config: shell("sh"),
			Top: &Layer{Installed: "busybox-static", Run: busyboxScript},
		},
		{Name: "debian", VersionOf: "base-files", Config: shell("bash"), Top: bookworm},
		{
			Name: "ubuntu-debootstrap", VersionOf: "base-files", Config: shell("bash"), Top: trixie,
			Note: "the minimal system of Debian 13 instead of Ubuntu's, whose archive is not reached",
		},
	}
}

func others() []*Recipe {
	return []*Recipe{
		{
			Name: "hello-world", VersionOf: helloProgram, Config: v1.Config{Env: []string{path}, Cmd: []string{"/hello"}},
			Top: &Layer{GoProgram: helloProgram},
		},
		{
			Name: "rabbitmq", VersionOf: "rabbitmq-server",
			Top: withCurl.install("rabbitmq-server").then(`
				rm -rf /var/lib/rabbitmq/mnesia /var/lib/rabbitmq/.erlang.cookie
			`).files(script("docker-entrypoint.sh", rabbitmqEntry)),
			Config: server("docker-entrypoint.sh", "rabbitmq-server"),
		},
		{
			Name: "registry", VersionOf: "docker-registry",
			Top:    withCurl.install("docker-registry"),
			Config: v1.Config{Env: []string{path}, Cmd: []string{"docker-registry", "serve", "/etc/docker/registry/config.yml"}},
		},
	}
}

// helloProgram is the program of hello-world.
const helloProgram = "github.com/slackerd/slacker/bench/hellobench/images/hello"
