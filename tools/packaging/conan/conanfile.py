# SPDX-License-Identifier: Apache-2.0
"""Recipe of mha for conan 2. It packages the source tree that it is in: `conan create tools/packaging/conan`."""

import re
from pathlib import Path
from typing import ClassVar

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain
from conan.tools.files import copy, load, rmdir
from conan.tools.layout import basic_layout

required_conan_version = ">=2.1"


class MhaRecipe(ConanFile):
    name = "mha"
    description = "Multi-head attention for CPUs"
    license = "Apache-2.0 AND BSD-3-Clause"
    topics = ("attention", "transformer", "inference", "simd")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options: ClassVar = {
        "shared": [True, False],
        "openmp": [True, False],
        "codes": [True, False],
        "bf16": [True, False],
        "targets": [None, "ANY"],  # as MHA_TARGETS, "avx2,sse2"; None: all of the CPU's family
    }
    default_options: ClassVar = {"shared": False, "openmp": True, "codes": True, "bf16": True, "targets": None}

    def set_version(self):
        header = load(self, Path(self.recipe_folder, "../../../core/mha.h"))
        self.version = ".".join(re.findall(r"#define MHA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))

    def export_sources(self):
        root = Path(self.recipe_folder, "../../..")
        files = ("CMakeLists.txt", "LICENSE", "tools/packaging/NOTICE", "tools/packaging/sbom.cmake")
        for pattern in (*files, "core/*", "simd/*", "tools/cmake/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def layout(self):
        basic_layout(self, src_folder=".")

    def requirements(self):
        # Its headers are compiled in; users of the package do not need them.
        self.requires("xsimd/[>=8.1 <15]", headers=True, libs=False, visible=False)

    def package_id(self):
        self.info.settings.rm_safe("compiler.cppstd")
        self.info.settings.rm_safe("compiler.libcxx")

    def validate(self):
        if self.settings.os != "Linux" or self.settings.arch not in ("x86_64", "armv8"):
            raise ConanInvalidConfiguration(f"mha runs on Linux on x86_64 and armv8, not on {self.settings.os} on {self.settings.arch}")

    def generate(self):
        toolchain = CMakeToolchain(self)
        for name in ("TESTS", "BENCH", "TOOLS"):
            toolchain.cache_variables[f"MHA_BUILD_{name}"] = False
        for name in ("shared", "openmp", "codes", "bf16"):
            toolchain.cache_variables[f"MHA_{name.upper()}"] = bool(self.options.get_safe(name))
        toolchain.cache_variables["MHA_TARGETS"] = str(self.options.targets or "").replace(",", ";")
        toolchain.cache_variables["XSIMD_INCLUDE_DIR"] = self.dependencies["xsimd"].cpp_info.includedirs[0]
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build(target="mha")

    def package(self):
        cmake = CMake(self)
        for component in ("mha_dev", "mha_runtime", "mha_doc"):
            cmake.install(component=component)
        copy(self, "*", Path(self.package_folder, "share/doc/mha"), Path(self.package_folder, "licenses"))
        for folder in ("lib/cmake", "lib/pkgconfig", "share"):  # conan's generators write their own
            rmdir(self, Path(self.package_folder, folder))

    def package_info(self):
        self.cpp_info.libs = ["mha"]
        self.cpp_info.set_property("cmake_file_name", "mha")
        self.cpp_info.set_property("cmake_target_name", "mha::mha")
        self.cpp_info.set_property("pkg_config_name", "mha")
        if self.options.shared:
            self.cpp_info.defines = ["MHA_SHARED=1"]
        else:
            self.cpp_info.system_libs = ["m", "pthread"]
            if self.options.openmp:
                self.cpp_info.exelinkflags = ["-fopenmp"]
                self.cpp_info.sharedlinkflags = ["-fopenmp"]
