// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that the adapter uses, in declarations of our own. OrtApi is a table of functions to
// which versions only append, so a place in it (a slot) keeps its function. Each slot used stands here with its number.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

// Version 25 of the table has the last slot used here (414); ONNX Runtime 1.25 and later offer it.
constexpr std::uint32_t kApiVersion = 25;

struct Status;      // null: success
struct Value;       // a tensor
struct MemoryInfo;  // where memory is
struct TypeInfo;    // the type of an input in the graph
struct TensorInfo;  // the same for a tensor: its element type and shape
struct Options;     // of a session
struct Domain;      // a set of custom operators
struct KernelInfo;  // a node, while its kernel is made
struct Context;     // one call of a kernel
struct Logger;      // of the session
struct KeyValues;   // the configuration entries of the session
struct Operator;    // one of ONNX Runtime's own kernels, made by CreateOp
struct Attribute;   // of such a kernel
struct CustomOp;    // below
struct Allocator {
  std::uint32_t version;
  void* (*Alloc)(Allocator*, std::size_t);
  void (*Free)(Allocator*, void*);
  const MemoryInfo* (*Info)(const Allocator*);
};

enum ElementType : int {
  kAny = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16
};
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };
enum AttributeType : int { kInt = 1, kFloatAttribute = 3, kString = 5 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum Severity : int { kInfo = 1, kWarning = 2 };

// slot, name, result, parameters
#define MHA_ORT_SLOTS(X)                                                                                             \
  X(0, CreateStatus, Status*, (int code, const char* message))                                                       \
  X(2, GetErrorMessage, const char*, (const Status*))                                                                \
  X(26, CreateCustomOpDomain, Status*, (const char* name, Domain**))                                                 \
  X(27, CustomOpDomain_Add, Status*, (Domain*, const CustomOp*))                                                     \
  X(28, AddCustomOpDomain, Status*, (Options*, Domain*))                                                             \
  X(48, CreateTensorAsOrtValue, Status*,                                                                             \
    (Allocator*, const std::int64_t* shape, std::size_t rank, ElementType, Value**))                                 \
  X(51, GetTensorMutableData, Status*, (Value*, void** data))                                                        \
  X(55, CastTypeInfoToTensorInfo, Status*, (const TypeInfo*, const TensorInfo**))                                    \
  X(60, GetTensorElementType, Status*, (const TensorInfo*, ElementType*))                                            \
  X(85, KernelInfoGetAttribute_float, Status*, (const KernelInfo*, const char* name, float*))                        \
  X(86, KernelInfoGetAttribute_int64, Status*, (const KernelInfo*, const char* name, std::int64_t*))                 \
  X(87, KernelInfoGetAttribute_string, Status*, (const KernelInfo*, const char* name, char*, std::size_t* bytes))    \
  X(88, KernelContext_GetInputCount, Status*, (const Context*, std::size_t*))                                        \
  X(89, KernelContext_GetOutputCount, Status*, (const Context*, std::size_t*))                                       \
  X(90, KernelContext_GetInput, Status*, (const Context*, std::size_t index, const Value**))                         \
  X(91, KernelContext_GetOutput, Status*, (Context*, std::size_t index, const std::int64_t*, std::size_t, Value**))  \
  X(93, ReleaseStatus, void, (Status*))                                                                              \
  X(96, ReleaseValue, void, (Value*))                                                                                \
  X(98, ReleaseTypeInfo, void, (TypeInfo*))                                                                          \
  X(132, ReleaseAllocator, void, (Allocator*))                                                                       \
  X(211, CreateOpAttr, Status*, (const char* name, const void* data, int length, AttributeType, Attribute**))        \
  X(212, ReleaseOpAttr, void, (Attribute*))                                                                          \
  X(213, CreateOp, Status*,                                                                                          \
    (const KernelInfo*, const char* name, const char* domain, int version, const char** constraints,                 \
     const ElementType* types, int constraint_count, const Attribute* const*, int attribute_count, int inputs,       \
     int outputs, Operator**))                                                                                       \
  X(214, InvokeOp, Status*, (const Context*, const Operator*, const Value* const*, int, Value* const*, int))         \
  X(215, ReleaseOp, void, (Operator*))                                                                               \
  X(230, KernelInfo_GetInputCount, Status*, (const KernelInfo*, std::size_t*))                                       \
  X(231, KernelInfo_GetOutputCount, Status*, (const KernelInfo*, std::size_t*))                                      \
  X(232, KernelInfo_GetInputName, Status*, (const KernelInfo*, std::size_t index, char*, std::size_t* bytes))        \
  X(233, KernelInfo_GetOutputName, Status*, (const KernelInfo*, std::size_t index, char*, std::size_t* bytes))       \
  X(234, KernelInfo_GetInputTypeInfo, Status*, (const KernelInfo*, std::size_t index, TypeInfo**))                   \
  X(244, KernelInfo_GetNodeName, Status*, (const KernelInfo*, char*, std::size_t* bytes))                            \
  X(245, KernelInfo_GetLogger, Status*, (const KernelInfo*, const Logger**))                                         \
  X(247, Logger_LogMessage, Status*,                                                                                 \
    (const Logger*, Severity, const char* message, const char* file, int line, const char* function))                \
  X(249, KernelInfoGetConstantInput_tensor, Status*, (const KernelInfo*, std::size_t index, int* is, const Value**)) \
  X(274, KernelContext_ParallelFor, Status*,                                                                         \
    (const Context*, void (*)(void*, std::size_t), std::size_t total, std::size_t batches, void* data))              \
  X(278, KernelInfoGetAllocator, Status*, (const KernelInfo*, int memory_type, Allocator**))                         \
  X(297, GetKeyValue, const char*, (const KeyValues*, const char* key))                                              \
  X(300, ReleaseKeyValuePairs, void, (KeyValues*))                                                                   \
  X(391, KernelInfo_GetConfigEntries, Status*, (const KernelInfo*, KeyValues**))                                     \
  X(414, GetTensorElementTypeAndShapeDataReference, Status*,                                                         \
    (const Value*, ElementType*, const std::int64_t** shape, std::size_t* rank))

// The slots used, by name.
struct Api {
#define MHA_ORT_FIELD(slot, name, result, parameters) result(*name) parameters;
  MHA_ORT_SLOTS(MHA_ORT_FIELD)
#undef MHA_ORT_FIELD
};

struct ApiBase {
  const void* const* (*GetApi)(std::uint32_t version);  // null: this version is not offered
  const char* (*GetVersionString)();
};

// What describes a custom operator and its kernels; each version of the ABI appends.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* const* api, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, Context*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  int (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const void* const* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, Context*);
  Status* (*InferOutputShapeFn)(const CustomOp*, void*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  std::size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "as ONNX Runtime declares it");

}  // namespace ort
