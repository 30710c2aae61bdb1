# SPDX-License-Identifier: Apache-2.0
"""Builds a C program against the package of mha, and runs it."""

from pathlib import Path

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class MhaTest(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps", "CMakeToolchain"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        project = Path(self.recipe_folder, "../../../../tests/consumers/find_package")
        cmake.configure(variables={"CONSUMER_LANGUAGE": "C"}, build_script_folder=str(project))
        cmake.build()

    def test(self):
        if can_run(self):
            self.run(f"{self.cpp.build.bindir}/consumer", env="conanrun")
