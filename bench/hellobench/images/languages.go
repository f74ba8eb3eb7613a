package images

func languages() []*Recipe {
	return []*Recipe{
		{Name: "clojure", VersionOf: "clojure", Top: withJRE.install("clojure", "leiningen"), Config: shell("clojure")},
		{Name: "gcc", VersionOf: "gcc-12", Top: withBuild.install("gcc", "g++", "gfortran", "gccgo", "gobjc", "gdc"), Config: shell("bash")},
		{Name: "golang", VersionOf: "golang-1.19", Top: withSCM.install("g++", "gcc", "libc6-dev", "make", "pkg-config", "golang"), Config: shell("bash")},
		{Name: "haskell", VersionOf: "ghc", Top: withSCM.install("ghc", "cabal-install", "ghc-haddock", "make", "zlib1g-dev"), Config: shell("ghci")},
		{Name: "hylang", VersionOf: "python3-hy", Top: trixie.install("ca-certificates", "python3", "hy"), Config: shell("hy")},
		{Name: "java", VersionOf: "openjdk-17-jdk-headless", Top: withSCM.install("openjdk-17-jdk-headless", "unzip"), Config: shell("bash")},
		{Name: "jruby", VersionOf: "jruby", Top: withJRE.install("jruby"), Config: shell("bash")},
		{Name: "julia", VersionOf: "julia", Top: bullseye.install("ca-certificates", "julia"), Config: shell("julia")},
		{Name: "mono", VersionOf: "mono-complete", Top: bookworm.install("mono-complete", "binutils", "ca-certificates"), Config: shell("bash")},
		{Name: "perl", VersionOf: "perl", Top: withBuild.install("perl", "libperl-dev", "cpanminus"), Config: shell("perl", "-de0")},
		{
			Name: "php", VersionOf: "php8.2-cli",
			Top:    withCurl.install("autoconf", "dpkg-dev", "file", "g++", "gcc", "make", "pkg-config", "re2c", "xz-utils").install("php-cli", "php-curl", "php-mbstring", "php-sqlite3", "php-xml", "php-dev"),
			Config: shell("php", "-a"),
		},
		{Name: "pypy", VersionOf: "pypy3", Top: withBuild.install("pypy3", "pypy3-dev", "pypy3-venv"), Config: shell("pypy3")},
		{
			Name: "python", VersionOf: "python3",
			Top: withBuild.install("python-is-python3", "python3", "python3-dev", "python3-pip", "python3-venv").
				install("python3-numpy", "python3-scipy", "python3-pandas", "python3-matplotlib", "python3-sklearn"),
			Config: shell("python3"),
			Note:   "with numpy, scipy, pandas, matplotlib and scikit-learn, as images that people run have them",
		},
		{Name: "r-base", VersionOf: "r-base-core", Top: withCurl.install("locales", "less", "vim-tiny").install("r-base", "r-recommended", "gfortran", "g++", "make"), Config: shell("R")},
		{Name: "rakudo-star", VersionOf: "rakudo", Top: withSCM.install("gcc", "libc6-dev", "make").install("rakudo"), Config: shell("raku")},
		{Name: "ruby", VersionOf: "ruby3.1", Top: withBuild.install("ruby", "ruby-dev", "bundler"), Config: shell("irb")},
		{Name: "thrift", VersionOf: "thrift-compiler", Top: withCurl.install("thrift-compiler", "python3", "python3-thrift"), Config: shell("thrift")},
	}
}

func webFrameworks() []*Recipe {
	return []*Recipe{
		{
			Name: "django", VersionOf: "python3-django",
			Top: withSCM.install("gcc", "gettext", "default-mysql-client", "libpq-dev", "postgresql-client", "sqlite3", "python3-pip", "python-is-python3").
				install("python3-django", "python3-psycopg2", "python3-mysqldb"),
			Config: shell("python3"),
		},
		{Name: "node", VersionOf: "nodejs", Top: withBuild.install("nodejs", "npm"), Config: shell("node")},
		{
			Name: "rails", VersionOf: "rails",
			Top:    withBuild.install("ruby", "ruby-dev", "bundler").install("nodejs", "default-mysql-client", "postgresql-client", "sqlite3").install("rails"),
			Config: shell("irb"),
		},
	}
}

// compilers are images of one program in several versions, for what the paper
// calls MultiMake: a program built under each of them.
func compilers() []*Recipe {
	var all []*Recipe
	for _, c := range []struct {
		base    *Layer
		version string
	}{{bullseye, "9"}, {bullseye, "10"}, {bookworm, "11"}, {bookworm, "12"}, {trixie, "13"}, {trixie, "14"}} {
		all = append(all, &Recipe{
			Name: "gcc:" + c.version, VersionOf: "gcc-" + c.version, Config: shell("bash"),
			Top: c.base.install("binutils", "libc6-dev", "make").install("gcc-"+c.version, "g++-"+c.version).
				then("ln -s gcc-" + c.version + " /usr/bin/cc && ln -s gcc-" + c.version + " /usr/bin/gcc && ln -s g++-" + c.version + " /usr/bin/g++"),
		})
	}
	return all
}
