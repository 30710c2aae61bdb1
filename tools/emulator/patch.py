#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Patches the source of Bochs 3.0.
  patch.py folder     each change is of a text that must be there as often as stated"""

import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])


def change(file, old, new, count=1):
    path = FOLDER / file
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if text.count(old) != count:
        sys.exit(f"{file}: {text.count(old)} times, not {count}: {old}")
    path.write_text(text.replace(old, new), encoding="utf-8", errors="surrogateescape")


def after(file, old, new):
    change(file, old, old + new)


# XFD, without which Linux gives tiles to no process: two registers (of the one CPU), what CPUID says of them, and #NM
# when an instruction would use tiles that they withhold.
for name in ("cpu/msr.cc", "cpu/xsave.cc"):
    after(name, "#define LOG_THIS BX_CPU_THIS_PTR\n", "extern Bit64u mha_xfd, mha_xfd_err;\n")
after("cpu/proc_ctrl.cc", "#define LOG_THIS BX_CPU_THIS_PTR\n", "Bit64u mha_xfd = 0, mha_xfd_err = 0;\n")
after("cpu/msr.cc", '  msr_desc[BX_MSR_XSS] = new MSR_Descriptor("MSR_IA32_XSS", BX_ISA_XSAVES);\n', """\
  msr_desc[BX_MSR_IA32_XFD] = new MSR_Descriptor("MSR_IA32_XFD", BX_ISA_AMX);
  msr_desc[BX_MSR_IA32_XFD_ERROR] = new MSR_Descriptor("MSR_IA32_XFD_ERROR", BX_ISA_AMX);
""")
after("cpu/msr.cc", "      val64 = BX_CPU_THIS_PTR msr.ia32_xss;\n      break;\n", """\
    case BX_MSR_IA32_XFD: val64 = mha_xfd; break;
    case BX_MSR_IA32_XFD_ERROR: val64 = mha_xfd_err; break;
""")
after("cpu/msr.cc", "        BX_CPU_THIS_PTR msr.ia32_xss = val_64;\n        break;\n      }\n", """\
    case BX_MSR_IA32_XFD:
    case BX_MSR_IA32_XFD_ERROR:
      if (val_64 & ~Bit64u(BX_XCR0_XTILEDATA_MASK)) return false;
      if (index == BX_MSR_IA32_XFD_ERROR) { mha_xfd_err = val_64; break; }
      mha_xfd = val_64;
      handleAvxModeChange();
      break;
""")
after("cpu/cpuid.cc", "    if (is_cpu_extension_supported(BX_ISA_XSAVES))\n      leaf->eax |= (1<<3);\n",
      "    if (is_cpu_extension_supported(BX_ISA_AMX)) leaf->eax |= (1<<4);\n")
after("cpu/cpuid.cc", "      leaf->ecx = (cpu->ia32_xss_suppmask & (1 << subfunction)) != 0;\n",
      "      if (subfunction == 18) leaf->ecx |= 4;\n")
after("cpu/proc_ctrl.cc", "      (~BX_CPU_THIS_PTR xcr0.val32 & (BX_XCR0_XTILECFG_MASK | BX_XCR0_XTILEDATA_MASK)) != 0",
      " || (mha_xfd & BX_XCR0_XTILEDATA_MASK) != 0")
after("cpu/proc_ctrl.cc", """\
  if (~BX_CPU_THIS_PTR xcr0.val32 & (BX_XCR0_XTILECFG_MASK | BX_XCR0_XTILEDATA_MASK))
    exception(BX_UD_EXCEPTION, 0);
""", """
  if (mha_xfd & BX_XCR0_XTILEDATA_MASK) {
    mha_xfd_err |= BX_XCR0_XTILEDATA_MASK;
    exception(BX_NM_EXCEPTION, 0);
  }
""")
change("cpu/xsave.cc", "get_xinuse_vector(requested_feature_bitmap);",
       "get_xinuse_vector(requested_feature_bitmap) & ~Bit32u(mha_xfd);", 2)
after("cpu/xsave.cc", "  Bit32u restore_mask = xstate_bv & format;\n", """\
  if (Bit32u(mha_xfd) & requested_feature_bitmap & restore_mask) {
    mha_xfd_err |= Bit32u(mha_xfd) & requested_feature_bitmap & restore_mask;
    exception(BX_NM_EXCEPTION, 0);
  }
""")

# Faults of saving and restoring tiles. A part that was not asked for moved no later part of the compact format; columns
# and rows were swapped; half of a tile's rows were left out; tiles counted as in use when they were not.
change("cpu/xsave.cc", """
        if (format & feature_mask)
          offset += xsave_restore[feature].len;
      }
""", """      }

      if (format & feature_mask)
        offset += xsave_restore[feature].len;
""")
for store, right, wrong in (("vmm16u(8+n)   ", "bytes_per_row", "rows"), ("vmmubyte(48+n)", "rows", "bytes_per_row")):
    start = f"      tilecfg.{store} = BX_CPU_THIS_PTR amx->tilecfg[n]."
    change("cpu/xsave.cc", f"{start}{wrong};", f"{start}{right};")
change("cpu/xsave.cc", "row < BX_TILE_REGISTERS; row++", "row < BX_TILE_MAX_ROWS; row++", 2)
change("cpu/xsave.cc", "(BX_CPU_THIS_PTR amx->tile_use_tracker == 0)", "(BX_CPU_THIS_PTR amx->tile_use_tracker != 0)")

# vcvtne2ps2bf16 read its upper half from behind the first operand.
change("cpu/avx/avx512_bf16.cc", "convert_ne_fp32_to_bfloat16(op1.vmm32u(n));",
       "convert_ne_fp32_to_bfloat16(op1.vmm32u(n - DWORD_ELEMENTS(len)));")

# With flush to zero, x - y of equal exponents became zero where the result is normal, with the least exponent.
for bits, least in (("32", "0x00800000"), ("64", "0x0010000000000000")):
    change(f"cpu/softfloat3e/s_subMagsF{bits}.c", "if (!expZ && sigDiff) {",
           f"if (!expZ && (uint{bits}_t(sigDiff) << shiftDist) < {least}) {{")

# TDPBSSD, TDPBSUD and TDPBUSD take bytes for unsigned that are signed.
def bytes_of(operand, kind):
    shifts = ", ".join(f"{kind}(({operand} >> {n}) & 0xff)" for n in (8, 16))
    return f"  const {kind} {operand}byte[4] = {{ {kind}({operand} & 0xff), {shifts}, {kind}({operand} >> 24) }};\n"


for name, x, y in (("DPBDSS", "Bit8s", "Bit8s"), ("DPBDSU", "Bit8s", "Bit8u"), ("DPBDUS", "Bit8u", "Bit8s")):
    head = f"BX_CPP_INLINE Bit32u {name}(Bit32u x, Bit32u y)\n{{\n"
    change("cpu/avx/amx.cc", head + bytes_of("x", "Bit8u") + bytes_of("y", "Bit8u"), head + bytes_of("x", x) + bytes_of("y", y))
